// What lesson 09 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "05_attention_heads/harness/proof.hpp"
#include "09_sequence_parallel/sequence_parallel.hpp"

namespace tessera::sequence_parallel {

using attention_heads::Part;
using PlainAttention = attention_heads::ParallelAttention;
using PlainBlock = attention_heads::TransformerBlock<>;

struct Config {
  attention_heads::Sizes sizes;
  bool regather = false;

  bool block() const { return sizes.part == Part::block; }
  /// Tensor-parallel regions, each from an all-gather to a reduce-scatter: attention, and the MLP.
  std::int64_t regions() const { return block() ? 2 : 1; }
};

/// Completes the sizes for p ranks. Throws UsageError where they cannot be cut over these.
inline void check_sizes(attention_heads::Sizes& s, const Options& options, int p) {
  refuse_if(s.trap_qkv, "--trap is lesson 05's: without --trap it would work");
  set_sizes(s, options, p);
  const AttentionOptions& o = s.shape.options;
  refuse_if(s.shares_keys(p),
            "--kv-heads {} on {} ranks: a number that they divide, like --kv-heads {}, would work; "
            "lesson 05 has multi-query attention",
            s.shape.kv_heads, p, s.shape.heads);
  refuse_if(s.n() % p != 0,
            "{} ranks do not divide the {} tokens of --batch {} --seq {}: --seq {} would work", p, s.n(),
            o.batch, o.seq, (o.seq / p + 1) * p);
}

/// Bytes that all ranks send, and bytes of activations that a rank holds after each pass.
struct Figures {
  std::int64_t forward = 0, backward = 0, kept = 0, held = 0;
};
/// The figures of this lesson's layer and of lesson 05's, known on rank 0.
struct Compared {
  Figures cut, whole;
  std::int64_t step = 0;  // bytes of the sums that are owed once a step
};

/// The gradients of the weights that a rank uses for its own tokens only.
using Partials = std::vector<std::pair<std::string, Placed<Partial>>>;
inline Partials partials(const Attention& attn) { return {{"attn.c_proj.bias", attn.c_proj.dc}}; }
inline Partials partials(const Block& block) {
  return {{"ln_1.weight", block.ln_1.dweight},
          {"ln_1.bias", block.ln_1.dbias},
          {"attn.c_proj.bias", block.attn.c_proj.dc},
          {"ln_2.weight", block.ln_2.dweight},
          {"ln_2.bias", block.ln_2.dbias},
          {"mlp.c_proj.bias", block.mlp.fc2.dc}};
}

/// Lesson 05's layer with the same weights.
inline PlainAttention plain(const Attention& a) {
  return {a.c_attn.a.local(), a.c_attn.c.local(), a.c_proj.a.local(), a.c_proj.c.local(), a.heads, a.core};
}
inline PlainBlock plain(const Block& b) {
  const Mlp& m = b.mlp;
  return {{b.ln_1.weight, b.ln_1.bias},
          plain(b.attn),
          {b.ln_2.weight, b.ln_2.bias},
          {{m.fc1.a.local(), m.fc1.c.local()}, {m.fc2.a.local(), m.fc2.c.local()}}};
}

inline void set_up(Attention& attn, const Config& c, const Communicator&) { attn.regather = c.regather; }
inline void set_up(Block& block, const Config& c, const Communicator& comm) {
  block.first_row = part(c.sizes.n(), comm.rank(), comm.size()).begin;
  block.attn.regather = block.mlp.regather = c.regather;
}

/// How many (N, W) matrices a rank keeps after the forward, or with `backward` after both passes, as two
/// numbers. `cut`: in this lesson, else in lesson 05. First those that this lesson cuts by tokens: X, dY, Y,
/// H and the results of two norms; then dX, dH, the gradients of two norms, and with dropout what it leaves
/// of dY. Second those that are whole because they were gathered: the norms' results (X, where there is no
/// norm); then dY and dH.
inline std::pair<std::int64_t, std::int64_t> matrices(const Config& c, bool backward, bool cut) {
  const bool inputs = cut && !c.regather, dropped = backward && c.sizes.shape.options.dropout > 0;
  const std::int64_t gathered = c.regions() * ((inputs ? 1 : 0) + (cut && backward ? 1 : 0));
  if (!c.block()) return {backward ? 4 : 3, gathered};
  return {(backward ? 8 : 4) + (dropped ? 1 : 0) + (inputs ? 0 : 2), gathered};
}

/// Elements of activations on each of p ranks.
inline std::int64_t activations(const Config& c, int p, const Proof& proof, bool backward, bool cut) {
  const std::int64_t n = c.sizes.n();
  const auto [residual, gathered] = matrices(c, backward, cut);
  return attention_heads::activations(c.sizes, p, proof, residual, backward, cut ? n / p : n) +
         gathered * n * c.sizes.w();
}
/// The bytes of these elements, as a formula.
inline std::string formula(const Config& c, const Proof& proof, bool backward, bool cut) {
  const auto [residual, gathered] = matrices(c, backward, cut);
  return format("{} (({} W{}) {}{} + N ({}QKV_i + W/p{}) + P_i)", proof.element_bytes(), residual,
                c.block() ? format(" + {}", 4 * proof.wide()) : "", cut ? "N/p" : "N",
                gathered > 0 ? format(" + {} N W", gathered) : "", backward ? "2 " : "",
                !c.block() ? ""
                : backward ? " + 3 F/p"
                           : " + 2 F/p");
}

/// Takes X forward and dY backward, in phases that begin with `way`. Calls measure(backward) after each pass.
template <class Layer, class X, class Measure>
std::pair<X, X> step(const Layer& layer, const X& x, const X& dy, typename Layer::Saved& saved,
                     const TensorParallel& tp, const std::string& way, const Measure& measure) {
  X y, dx;
  in_phase(tp.comm(), way + "fwd", [&] { y = layer.forward(x, saved, tp); });
  measure(false);
  in_phase(tp.comm(), way + "bwd", [&] {
    dx = layer.backward_input(dy, saved, tp);
    layer.backward_weight(saved);
  });
  measure(true);
  return {y, dx};
}

/// The bytes that all ranks have sent in a phase. Collective.
inline std::int64_t sent_in(Communicator& comm, const std::string& phase) {
  double own = 0;
  for (const auto& [key, traffic] : comm.journal().traffic())
    if (key.phase == phase) own += traffic.wire;
  return sum_over(comm, own);
}

/// A row of memory: the activations that a rank holds after a pass of this lesson's layer, or of lesson 05's.
inline void expect_activations(Proof& proof, const Config& c, Figures& found, std::int64_t bytes,
                               bool backward, bool cut) {
  const std::int64_t e = proof.element_bytes();
  (backward ? found.held : found.kept) = bytes;
  proof.measure_memory(MemoryKind::activation, bytes);
  proof.expect_memory(
      MemoryKind::activation,
      format("{} after the {}", cut ? "activations" : "lesson 05's", backward ? "backward" : "forward"),
      activations(c, 1, proof, backward, cut) * e, activations(c, proof.ranks(), proof, backward, cut) * e,
      formula(c, proof, backward, cut));
}

/// Lesson 05's layer on the same X, dY and weights. Its memory is booked as a check's.
template <class Layer>
Figures run_whole(Proof& proof, Communicator& comm, const Config& c, const Layer& layer) {
  const MemoryScope beside(MemoryKind::check);
  const auto whole = plain(layer);
  const auto now = [] { return Device::current()->memory.now(MemoryKind::check); };
  const std::int64_t before = now();
  const Slice all = Slice::whole(c.sizes.n(), c.sizes.w());
  const Placed<Replicated> x(proof.other_slice("X", all)), dy(proof.other_slice("dY", all));
  typename std::decay_t<decltype(whole)>::Saved saved;
  Figures found;
  step(whole, x, dy, saved, TensorParallel(comm), "05-",
       [&](bool backward) { expect_activations(proof, c, found, now() - before, backward, false); });
  found.forward = sent_in(comm, "05-fwd"), found.backward = sent_in(comm, "05-bwd");
  return found;
}

/// The names, cuts and identities of the results, as lesson 05 has them.
template <class Layer>
void check_results(Proof& proof, const Communicator& comm, const Config& c, const Layer& layer,
                   const std::pair<Placed<Shard<0>>, Placed<Shard<0>>>& found,
                   const Placed<Replicated>& sums) {
  const attention_heads::Sizes& s = c.sizes;
  proof.result("Y", "NW", "Y = [Y1; Y2], this rank's tokens", found.first);
  proof.result("dX", "NW", "dX = [dX1; dX2]", found.second);
  if constexpr (std::is_same_v<Layer, Attention>)
    attention_heads::attention_results(proof, comm, s, layer);
  else
    attention_heads::attention_results(proof, comm, s, layer.attn),
        attention_heads::mlp_results(proof, layer.mlp);
  std::int64_t row = 0;
  for (const auto& [name, term] : partials(layer)) {
    proof.result("d" + name, "1W", format("d{}, summed once a step", name),
                 Placed<Replicated>(sums.local().row_range(row, row + 1)));
    ++row;
  }
  compare_with_reference(proof, s);
}

/// What the calls of each phase must send, over all p ranks; `owed` gradients of (1, W) are Partial.
inline void expect_bytes(Proof& proof, const Config& c, std::int64_t owed) {
  const std::int64_t p = proof.ranks(), e = proof.element_bytes(), h = c.regions(), w = c.sizes.w();
  const std::int64_t each = (p - 1) * c.sizes.n() * w * e;
  const auto expect = [&](const std::string& phase, const std::string& op, const std::string& label,
                          std::int64_t calls, std::int64_t times) {
    proof.expect_traffic(
        phase, op, label, calls, times * calls * each,
        format("{}(p-1) {} {}N W", times > 1 ? "2 " : "", e, calls > 1 ? format("{} ", calls) : ""));
  };
  expect("fwd", "all_gather", "in front of the columns", h, 1);
  expect("fwd", "reduce_scatter", "behind the rows", h, 1);
  expect("bwd", "all_gather", c.regather ? "dY, and X again" : "dY", c.regather ? 2 * h : h, 1);
  expect("bwd", "reduce_scatter", "dX", h, 1);
  proof.expect_traffic("step", "all_reduce", "what is Partial", 1,
                       2 * (p - 1) * owed * w * proof.wide_bytes(),
                       format("2 (p-1) {} {}W", proof.wide_bytes(), owed > 1 ? format("{} ", owed) : ""));
  for (const char* phase : {"05-fwd", "05-bwd"}) expect(phase, "all_reduce", "lesson 05's", h, 2);
}

template <class Layer>
Compared prove(std::type_identity<Layer> type, Proof& proof, Communicator& comm, const Config& c) {
  const TensorParallel tp(comm);
  const attention_heads::Sizes& s = c.sizes;
  proof.axes({{'N', s.n()}, {'W', s.w()}, {'F', 4 * s.w()}});
  const auto x = proof.input<Shard<0>>("X", "NW"), dy = proof.input<Shard<0>>("dY", "NW");
  Layer layer = attention_heads::build_layer(type, proof, s, comm.rank(), comm.size());
  set_up(layer, c, comm);
  typename Layer::Saved saved;
  Compared compared;
  const auto found = step(layer, x, dy, saved, tp, "", [&](bool backward) {
    const std::int64_t bytes = Device::current()->memory.now(MemoryKind::activation);
    expect_activations(proof, c, compared.cut, bytes, backward, true);
  });
  proof.measure_memory();
  std::vector<Placed<Partial>> terms;
  for (const auto& [name, term] : partials(layer)) terms.push_back(term);
  Placed<Replicated> sums;
  in_phase(comm, "step", [&] { sums = sum_partials(terms, tp); });
  proof.expect_weights("all weights", "their gradients", all_weights(s, 1), all_weights(s, comm.size()),
                       "as in lesson 05");
  check_results(proof, comm, c, layer, found, sums);
  expect_bytes(proof, c, sums.local().rows());
  compared.whole = run_whole(proof, comm, c, layer);
  compared.cut.forward = sent_in(comm, "fwd"), compared.cut.backward = sent_in(comm, "bwd");
  compared.step = sent_in(comm, "step");
  const std::int64_t x_again = (comm.size() - 1) * c.regions() * s.n() * s.w() * proof.element_bytes(),
                     again = c.regather ? x_again : 0;
  const std::int64_t more =
      compared.cut.forward + compared.cut.backward - compared.whole.forward - compared.whole.backward - again;
  proof.claim(c.regather ? "bytes = lesson 05's, and X gathered again" : "bytes = lesson 05's",
              std::abs(more), 0, "Is a collective missing, or one too many?");
  return compared;
}

/// The lesson's run with its checks, as main makes it. In the exact tier only the attention of a block is
/// checked, since a layer norm is exact nowhere.
inline Compared prove(Proof& proof, Communicator& comm, Config c) {
  if (proof.exact()) c.sizes.part = Part::attention;
  return c.block() ? prove(std::type_identity<Block>{}, proof, comm, c)
                   : prove(std::type_identity<Attention>{}, proof, comm, c);
}

}  // namespace tessera::sequence_parallel
