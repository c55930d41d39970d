// What lesson 11 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include <algorithm>

#include "05_attention_heads/harness/proof.hpp"
#include "11_context_parallel/harness/sizes.hpp"

namespace tessera::context_parallel {

using attention_heads::Core;
using Layer = attention_heads::ParallelAttention;

/// Lesson 05's unsplit attention, and with it [dQ | dK | dV].
inline MeasuredReference reference(const Inputs<Tensor>& in, const attention_heads::Sizes& s) {
  MeasuredReference gradients;
  Core core = attention_heads::reference_core;
  core.backward = [&](const Tensor& dy, const AttentionSaved& saved, const AttentionOptions& o,
                      const Tensor& dq, const Tensor& dk, const Tensor& dv) {
    attention_heads::head_by_head_backward(dy, saved, o, dq, dk, dv);
    double sum = 0;
    attention_heads::for_each_head(dq, o, [&](auto b, auto h, const auto& of_head, const auto& of_key) {
      const attention_heads::AttentionHead head(of_head(saved.q), of_key(saved.k), of_key(saved.v), o, b, h,
                                                {});
      sum = std::max(sum, head.largest_sum(of_head(dy)));
    });
    const std::int64_t group = o.heads / o.kv_heads;  // the query heads of a kv head
    sum *= group;
    gradients.note("dQKV", Keys::beside(dq, Keys::beside(dk, dv)), sum);
  };
  MeasuredReference found = attention_heads::reference(in, s, core);
  found.note("dQKV", gradients.results.at("dQKV"), gradients.largest_sum.at("dQKV"));
  return found;
}

/// The counted work of each rank against its formula; and whether it is even, where the placement promises
/// that. `mine`: query-key pairs of this rank. Returns the multiply-adds of both passes, by rank.
inline std::vector<std::int64_t> check_work(Proof& proof, Communicator& cp, const Config& c,
                                            std::int64_t mine) {
  const std::vector<double> all = gather_over(cp, mine);
  double off = 0, sum = 0;
  for (int r = 0; r < cp.size(); ++r) {
    const double one = all[r];
    off += std::abs(one - 2 * pairs(c, r, cp.size())), sum += one;
  }
  proof.claim("query-key pairs of each rank = formula", off, 0, "which pairs of chunks did a rank compute?");
  if (c.shape().options.mask != Mask::causal || c.zigzag || c.way == Way::ulysses)
    proof.claim("every rank has the same work, to 1%", std::ranges::max(all) * cp.size() / sum - 1, 0.01,
                "has each rank an early chunk and a late one?");
  std::vector<std::int64_t> work;  // a pair costs 2 d forward, 5 d backward
  for (const double one : all) work.push_back(std::int64_t(one) / 2 * 7 * c.shape().head_width());
  proof.record("multiply_adds", work);
  return work;
}

/// Whether the hops of a ring's forward were under way while rank 0 computed. It has no pair for the keys of
/// later ranks where these come after all of its queries.
inline void check_overlap(Proof& proof, Communicator& cp, const Config& c, std::size_t first_span) {
  const bool idle = c.shape().options.mask == Mask::causal && !c.zigzag;
  double alone = idle ? -std::max(0, cp.size() - 2) : 0;
  for (std::size_t i = first_span; i < cp.journal().span_count(); ++i) {
    const Span& span = cp.journal().spans()[i];
    alone += span.category == "communication" && span.name.starts_with("recv");
  }
  proof.claim("K and V travel while the rank computes", std::abs(alone), 0,
              "a hop was waited for at once: was it started before the computation?");
}

/// What all ranks send; `weights` elements have a gradient on each rank.
inline void expect_bytes(Proof& proof, const Config& c, std::int64_t weights) {
  const std::int64_t more = proof.ranks() - 1, e = proof.element_bytes(), g = proof.wide_bytes();
  for (const bool forward : {true, false})
    for (const gpt::Exchange& one : gpt::exchanges(c.shape(), c.way, proof.ranks(), forward))
      proof.expect_traffic(
          forward ? "fwd" : "bwd", one.op, one.what, one.calls, one.elements * e,
          format("{} {} N {}", one.formula, e, c.way == Way::ulysses ? "(2 W + 2 KV)" : "2 KV"));
  proof.expect_traffic("step", "all_reduce", "gradients of weights", 1, 2 * more * weights * g,
                       format("2 (cp-1) {} Psi", g));
}

/// What a rank holds after the backward; and, for a ring or a gather, at the peak of the forward: X dY QKV O
/// lse, K and V of this rank and those that have arrived, and for a pair of chunks its o and lse, one more
/// number for each query of each head, and on a CPU the scores of a tile of keys.
inline void expect_memory(Proof& proof, const Config& c, std::int64_t weights, std::int64_t peak) {
  const std::int64_t e = proof.element_bytes(), g = proof.wide_bytes(), w = c.sizes.w(), qkv = c.sizes.qkv(),
                     heads = c.shape().heads;
  const bool ulysses = c.way == Way::ulysses, gather = c.way == Way::gather,
             cpu = Device::current()->kind() == DeviceKind::cpu;
  const auto held = [&](int ranks) {
    const std::int64_t saved = ulysses ? 2 * w + gpt::copied_kv(c.shape(), ranks) : qkv;
    return c.sizes.n() / ranks * ((5 * w + qkv + saved) * e + heads * g);
  };
  const auto most = [&](int ranks) {
    const Layout layout = c.layout(ranks);
    const std::int64_t n = c.sizes.n() / ranks,
                       tile = cpu ? std::min(attention_tile_keys, layout.length()) : 0,
                       state = w * e + heads * g, keys = gather ? 1 + ranks : std::min(ranks, 2);
    const std::int64_t pair = n / layout.own_chunks() * (state + heads * (tile * e + g));
    return n * ((2 * w + qkv) * e + state) + std::max(n * keys * c.kv() * e + pair, n * 2 * w * e);
  };
  proof.expect_weights("Wqkv b Wo c", "their gradients", weights, weights, "Psi, whole on every rank");
  proof.expect_memory(MemoryKind::activation, "X dX Y dY QKV dQKV O lse", held(1), held(proof.ranks()),
                      format("N/cp ({} (5 W + QKV + {}) + {} heads)", e, ulysses ? "2 W + 2 KV" : "QKV", g));
  if (ulysses) return;
  proof.measure_memory(MemoryKind::activation, peak);
  proof.expect_memory(MemoryKind::activation, "forward, at its peak", most(1), most(proof.ranks()),
                      format("X dY QKV O lse + {} {} N/cp 2 KV + a pair", gather ? "(1+cp)" : "2", e));
}

/// The lesson's run with its checks, as main makes it. Returns the multiply-adds of each rank.
inline std::vector<std::int64_t> prove(Proof& proof, Communicator& cp, const Config& c) {
  const attention_heads::Sizes& s = c.sizes;
  proof.axes({{'N', s.n()}, {'W', s.w()}, {'Q', s.qkv()}});
  const auto own = [&](std::int64_t cols) { return c.layout(cp.size()).slice(cols, cp.rank()); };
  const auto group = cp.split(cp.rank(), 0, "tp");
  const TensorParallel alone(*group);  // nothing is cut over tp here
  const Placed<Replicated> x(proof.input("X", "NW", own(s.w()))), dy(proof.input("dY", "NW", own(s.w())));
  const std::int64_t weights = attention_weights(s, 1);
  const GradientBuffer gradients(weights, proof.dtype());
  Layer layer = attention_heads::build_layer(std::type_identity<Layer>{}, proof, s, 0, 1);
  std::int64_t work = 0;
  layer.core =
      make_core(c.way, cp, c.layout(cp.size()), layer.heads, [&work](const auto& o) { work += pairs_of(o); });
  mlp_block::Step<Layer> step;
  const std::size_t first_span = cp.journal().span_count();
  Device::current()->memory.reset_peak();
  in_phase(cp, "fwd", [&] { step.y = layer.forward(x, step.saved, alone); });
  const std::int64_t peak = Device::current()->memory.peak(MemoryKind::activation);
  if (c.way == Way::ring && cp.size() > 1) check_overlap(proof, cp, c, first_span);
  in_phase(cp, "bwd", [&] {
    step.dx = layer.backward_input(dy, step.saved, alone);
    layer.backward_weight(step.saved);
  });
  // Each rank has a term of every weight's gradient.
  in_phase(cp, "step", [&] { cp.iall_reduce(gradients.all()).wait(); });
  proof.measure_memory();
  expect_memory(proof, c, weights, peak);
  expect_bytes(proof, c, weights);

  proof.result("O", "NW", "O  = merged over all keys", step.saved.c_proj.x.local(), own(s.w()));
  proof.result("Y", "NW", "Y  = O Wo + c, this rank's tokens", step.y.local(), own(s.w()));
  proof.result("dQKV", "NQ", "dQ dK dV, over all queries and keys", step.saved.c_attn.dy.local(),
               own(s.qkv()));
  proof.result("dX", "NW", "dX = dQKV Wqkv'", step.dx.local(), own(s.w()));
  for (const auto& [name, axes, gradient] : {std::tuple{"c_attn.weight", "WQ", layer.dqkv()},
                                             {"c_attn.bias", "1Q", layer.dc_qkv()},
                                             {"c_proj.weight", "WW", layer.c_proj.da.local()},
                                             {"c_proj.bias", "1W", layer.c_proj.dc.local()}})
    proof.result(format("dattn.{}", name), axes, format("d{}, summed over the ranks", name), gradient,
                 Slice::whole(gradient.rows(), gradient.cols()));
  proof.measured_baseline([s](const auto& in) { return reference(in, s); });
  return check_work(proof, cp, c, work);
}

}  // namespace tessera::context_parallel
