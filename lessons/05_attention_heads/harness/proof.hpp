// What lesson 05 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include <type_traits>

#include "05_attention_heads/block.hpp"
#include "05_attention_heads/harness/reference.hpp"
#include "05_attention_heads/harness/sizes.hpp"

namespace tessera::attention_heads {

/// The unsplit attention or block with its gradients.
inline MeasuredReference reference(const Inputs<Tensor>& in, const Sizes& s, const Core& core) {
  Reference u(in, s.shape, core);
  const Tensor x = in("X"), dy = in("dY");
  const bool block = s.part == Part::block;
  const Tensor y = block ? u.block("", x) : u.attention("attn", x);
  const Tensor dx = block ? u.block_backward("", dy) : u.attention_backward("attn", dy);
  u.note("Y", y, u.sum_of(block ? "mlp.c_proj" : "attn.c_proj"));
  u.note("dX", dx, u.sum_of("attn.c_attn dX"));
  // A row of P sums to 1, so an element of O is at most the largest |V|.
  if (!block) u.note("O", u.heads("attn"), u.sum_of("attn.c_attn"));
  return u.results;
}

/// What O would be if each rank took a contiguous p-th of the columns of [Q | K | V] for its q, k and v.
inline Tensor contiguous_heads(const Inputs<Tensor>& in, const Sizes& s, const Core& core, int p) {
  const Tensor qkv = add_bias(matmul(in("X"), in("attn.c_attn.weight")), in("attn.c_attn.bias"));
  const Tensor o = Tensor::empty(s.n(), s.w(), qkv.dtype(), qkv.device());
  for (int r = 0; r < p; ++r) {
    const Range wrong = part(s.qkv(), r, p), own = part(s.w(), r, p);
    const AttentionOptions heads = own_heads(s.shape, r, p);
    const auto [q, k, v] = q_k_v(qkv.column_range(wrong.begin, wrong.end), heads);
    AttentionSaved ignored;
    o.column_range(own.begin, own.end).copy_from(core.forward(q, k, v, heads, ignored));
  }
  return o;
}

// Building. `rank` and the number of ranks say which heads are this rank's.

template <class Attention>
Attention build_layer(std::type_identity<Attention>, Proof& proof, const Sizes& s, int rank, int p) {
  const double scale = 1 / std::sqrt(s.w());
  const Tensor qkv = proof.weight("attn.c_attn.weight", "WQ", own_columns(s.w(), s, rank, p), 3 * scale);
  const Tensor c_qkv = proof.weight("attn.c_attn.bias", "1Q", own_columns(1, s, rank, p));
  const Tensor proj = proof.weight("attn.c_proj.weight", "WW", Slice::rows(s.w(), s.w(), rank, p), scale);
  const Tensor c = proof.weight<Replicated>("attn.c_proj.bias", "1W");
  return {qkv, c_qkv, proj, c, own_heads(s.shape, rank, p), proof.exact() ? linear_core : Core{}};
}

template <class Attention, class... More>
auto build_layer(std::type_identity<TransformerBlock<Attention, More...>>, Proof& proof, const Sizes& s,
                 int rank, int p) -> TransformerBlock<Attention, More...> {
  using Norm = decltype(TransformerBlock<Attention, More...>::ln_1);
  const double scale = 1 / std::sqrt(s.w());
  const auto norm = [&](const std::string& name) {
    const Placed<Replicated> weight(proof.weight<Replicated>(name + ".weight", "1W"));
    return Norm{weight, Placed<Replicated>(proof.weight<Replicated>(name + ".bias", "1W"))};
  };
  return {norm("ln_1"),
          build_layer(std::type_identity<Attention>{}, proof, s, rank, p),
          norm("ln_2"),
          {{proof.weight<Shard<1>>("mlp.c_fc.weight", "WF", scale),
            proof.weight<Shard<1>>("mlp.c_fc.bias", "1F")},
           {proof.weight<Shard<0>>("mlp.c_proj.weight", "FW", scale / 2),
            proof.weight<Replicated>("mlp.c_proj.bias", "1W")}}};
}

/// X and dY (N, W), whole on every rank, and the layer with this rank's heads.
template <class Layer>
struct Built {
  Placed<Replicated> x, dy;
  Layer layer;
};

template <class Layer>
Built<Layer> build(Proof& proof, const Communicator& comm, const Sizes& s) {
  proof.axes({{'N', s.n()}, {'W', s.w()}, {'F', 4 * s.w()}});
  return {proof.input<Replicated>("X", "NW"), proof.input<Replicated>("dY", "NW"),
          build_layer(std::type_identity<Layer>{}, proof, s, comm.rank(), comm.size())};
}

// Checking.

/// The elements of all activations on each of p ranks, after the backward or before it. There are `matrices`
/// matrices (N, W) and the norms' means and deviations, of which this rank holds `own` of the N rows (lesson
/// 09 cuts them), and what is cut by columns and by heads.
inline std::int64_t activations(const Sizes& s, int p, const Proof& proof, std::int64_t matrices,
                                bool backward, std::int64_t own) {
  const std::int64_t n = s.n(), w = s.w(), times = backward ? 2 : 1;
  const bool block = s.part == Part::block;
  const AttentionOptions& o = s.shape.options;  // what the core keeps: P, or a number for each of its rows
  const std::int64_t core = n * s.shape.heads / p * (o.streams() ? proof.wide() : o.seq);
  return own * (matrices * w + (block ? 4 * proof.wide() : 0)) +
         n * (times * own_qkv(s, p) + w / p + (block ? (times + 1) * 4 * w / p : 0)) +
         (proof.exact() ? 0 : core);
}

/// Expects the activations of lesson 05 after the backward, as a row of the table of memory.
inline void expect_activations(Proof& proof, const Sizes& s, std::int64_t matrices, const std::string& label,
                               const std::string& formula) {
  const std::int64_t e = proof.element_bytes();
  proof.expect_memory(MemoryKind::activation, label, activations(s, 1, proof, matrices, true, s.n()) * e,
                      activations(s, proof.ranks(), proof, matrices, true, s.n()) * e,
                      format("{} {}", e, formula));
}

/// The unsplit attention or block is the baseline, here and in lesson 09.
inline void compare_with_reference(Proof& proof, const Sizes& s) {
  const Core core = proof.exact() ? linear_core : reference_core;
  proof.measured_baseline([=](const auto& in) { return reference(in, s, core); });
}

/// The results for the gradients of attention's weights, except for the bias that is added after the sum.
template <class Attention>
void attention_results(Proof& proof, const Communicator& comm, const Sizes& s, const Attention& layer) {
  const auto qkv = [&](std::int64_t rows) { return own_columns(rows, s, comm.rank(), comm.size()); };
  proof.result("dattn.c_attn.weight", "WQ", "dWqkv = X' [dQ dK dV]_i", layer.dqkv(), qkv(s.w()));
  proof.result("dattn.c_attn.bias", "1Q", "db    = sum [dQ dK dV]_i", layer.dc_qkv(), qkv(1));
  proof.result("dattn.c_proj.weight", "WW", "dWo   = O_i' dY", layer.c_proj.da);
}
/// The same for the weights of the MLP.
template <class Mlp>
void mlp_results(Proof& proof, const Mlp& mlp) {
  proof.result("dmlp.c_fc.weight", "WF", "dA    = ln_2(Xa)' [dU1, dU2]", mlp.fc1.da);
  proof.result("dmlp.c_fc.bias", "1F", "dc1   = [sum dU1, sum dU2]", mlp.fc1.dc);
  proof.result("dmlp.c_proj.weight", "FW", "dB    = [H1' dY; H2' dY]", mlp.fc2.da);
}

/// Elements of the weights of the attention or of the block on each of p ranks.
inline std::int64_t all_weights(const Sizes& s, int p) {
  const std::int64_t w = s.w(), mlp = (2 * w + 1) * 4 * w / p + w, norms = 4 * w;
  return attention_weights(s, p) + (s.part == Part::block ? mlp + norms : 0);
}

/// Expects the bytes of `halves` halves of a block, one of which is attention: each has one all-reduce in
/// each pass.
inline void expect_sums(Proof& proof, const Sizes& s, int halves) {
  const std::int64_t p = proof.ranks(), e = proof.element_bytes(), nw = s.n() * s.w() * halves,
                     more = s.shares_keys(p) ? 2 * s.n() * s.shape.kv_width() : 0;  // [dK dV]
  const std::string sums = halves == 1 ? "N W" : format("{} N W", halves), cost = format("2 (p-1) {} ", e);
  proof.expect_traffic("fwd", "all_reduce", halves == 1 ? "Y" : "attention, MLP", halves,
                       2 * (p - 1) * nw * e, cost + sums);
  proof.expect_traffic("bwd", "all_reduce", more > 0 ? "dX, [dK dV]" : "dX", halves + (more > 0),
                       2 * (p - 1) * (nw + more) * e, cost + (more > 0 ? "(" + sums + " + 2 N d)" : sums));
}

template <class Attention>
void check(Proof& proof, Communicator& comm, const Sizes& s, const Attention& layer,
           const mlp_block::Step<Attention>& found) {
  proof.measure_memory();
  proof.result("O", "NW", "O  = [heads_1, heads_2]", found.saved.c_proj.x);
  proof.result("Y", "NW", "Y  = O1 Wo1 + O2 Wo2 + c", found.y);
  proof.result("dX", "NW", "dX = dQKV1 Wqkv1' + dQKV2 Wqkv2'", found.dx);
  attention_results(proof, comm, s, layer);
  proof.result("dattn.c_proj.bias", "1W", "dc    = sum dY", layer.c_proj.dc);
  compare_with_reference(proof, s);
  for (const auto& [name, wrong] :
       {std::pair{"the scores were divided by d, not by its root.", Core{head_by_head<0, true>}},
        {"the mask is off by one: each query saw the key after it.", Core{head_by_head<1>}}})
    proof.mistake("O", name, [=, forward = wrong.forward](const auto& in, int) {
      return reference(in, s, {forward, head_by_head_backward}).results.at("O");
    });
  const int p = proof.ranks();
  if (!s.shares_keys(p))
    proof.mistake(
        "O",
        "[Q | K | V] was cut contiguously, as one matrix: its columns are those of other heads, or keys.",
        [=, core = layer.core](const auto& in, int) { return contiguous_heads(in, s, core, p); });

  expect_sums(proof, s, 1);
  proof.expect_weights("Wqkv b Wo c", "dWqkv db dWo dc", all_weights(s, 1), all_weights(s, p),
                       format("((W+1){} + W W/p + W)", s.shares_keys(p) ? "(W/p + 2 d)" : "(W + 2 KV)/p"));
  expect_activations(proof, s, 4, "X dX Y dY QKV dQKV O P", "(N (4 W + 2 QKV_i + W/p) + P_i)");
}

template <class Attention>
void check(Proof& proof, Communicator& comm, const Sizes& s, const TransformerBlock<Attention>& block,
           const mlp_block::Step<TransformerBlock<Attention>>& found) {
  proof.measure_memory();
  proof.result("Y", "NW", "Y  = Xa + mlp(ln_2 Xa), Xa = X + attn(ln_1 X)", found.y);
  proof.result("dX", "NW", "dX = dXa + ln_1' attn' dXa", found.dx);
  attention_results(proof, comm, s, block.attn);
  proof.result("dattn.c_proj.bias", "1W", "dc    = sum dY", block.attn.c_proj.dc);
  mlp_results(proof, block.mlp);
  proof.result("dmlp.c_proj.bias", "1W", "dc2   = sum dY", block.mlp.fc2.dc);
  double apart = 0;
  for (const auto& [name, gradient] : {std::pair{"dln_1.weight", &block.ln_1.dweight},
                                       {"dln_1.bias", &block.ln_1.dbias},
                                       {"dln_2.weight", &block.ln_2.dweight},
                                       {"dln_2.bias", &block.ln_2.dbias}}) {
    proof.result(name, "1W", format("{}, whole on every rank", name), *gradient);
    apart += ranks_apart(comm, gradient->local());
  }
  proof.claim("layer-norm gradients: equal bits on all ranks", apart, 0,
              "A norm's gradient differs between ranks: was dX all-reduced before it?");
  compare_with_reference(proof, s);

  expect_sums(proof, s, 2);
  proof.expect_weights("all weights", "their gradients", all_weights(s, 1), all_weights(s, proof.ranks()),
                       "(attention + ((2 W + 1) F/p + W) + 4 W)");
  // X dX Y dY, H dH, the output of each norm and its gradient; with dropout, also what dropout leaves of dY.
  const std::int64_t matrices = s.shape.options.dropout > 0 ? 11 : 10;
  expect_activations(proof, s, matrices, "activations",
                     format("(N ({} W + 2 QKV_i + W/p + 3 F/p + {}) + P_i)", matrices, 4 * proof.wide()));
}

/// Calls body with a std::type_identity of the layer that the sizes ask for: attention or a block, and with
/// or without shared keys.
template <class Body>
void with_layer_type(const Sizes& s, int ranks, const Body& body) {
  const auto with = [&]<class Attention>(std::type_identity<Attention> attention) {
    if (s.part == Part::block)
      body(std::type_identity<TransformerBlock<Attention>>{});
    else
      body(attention);
  };
  if (s.shares_keys(ranks))
    with(std::type_identity<MultiQueryAttention>{});
  else
    with(std::type_identity<ParallelAttention>{});
}

/// The lesson's run with its checks, as main makes it. In the exact tier only the attention of a block is
/// checked, since a layer norm is exact nowhere.
inline void prove(Proof& proof, Communicator& comm, Sizes s) {
  if (proof.exact()) s.part = Part::attention;
  with_layer_type(s, comm.size(), [&]<class Layer>(std::type_identity<Layer>) {
    const auto built = build<Layer>(proof, comm, s);
    check(proof, comm, s, built.layer, mlp_block::step(built.layer, built.x, built.dy, TensorParallel(comm)));
  });
}

}  // namespace tessera::attention_heads
