// What lesson 05 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include <cmath>

#include "05_attention_heads/block.hpp"
#include "05_attention_heads/harness/by_head.hpp"
#include "05_attention_heads/harness/reference.hpp"
#include "05_attention_heads/harness/sizes.hpp"
#include "tensor/error.hpp"

namespace tessera::attention_heads {

inline MeasuredReference unsplit(const Inputs<Tensor>& in, const Sizes& s, const Core& core) {
  Reference u(in, s.shape, core);
  const Tensor x = in("X"), dy = in("dY");
  const bool block = s.part == Part::block;
  const Tensor y = block ? u.block("", x) : u.attention("attn", x);
  const Tensor dx = block ? u.block_backward("", dy) : u.attention_backward("attn", dy);
  u.note("Y", y, u.sum_of(block ? "mlp.c_proj" : "attn.c_proj"));
  u.note("dX", dx, u.sum_of("attn.c_attn dX"));
  // A row of P sums to 1, so an element of O is at most the largest |V|.
  if (!block) u.note("O", u.heads("attn"), u.sum_of("attn.c_attn"));
  return u.whole;
}

/// O as a core computes it, right or wrong.
inline Tensor unsplit_heads(const Inputs<Tensor>& in, const Sizes& s, const Core& core) {
  Reference u(in, s.shape, core);
  u.attention("attn", in("X"));
  return u.heads("attn");
}

/// O if each rank cut [Q | K | V] as one matrix: a p-th of its columns in a row, taken for its q, k and v.
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

/// The results in the order of the formula. `d`: a gradient's name.
template <class Attention>
void attention_results(Proof& proof, const Sizes& s, int rank, int p, const Attention& layer) {
  const Slice proj = Slice::rows(s.w(), s.w(), rank, p), row = Slice::whole(1, s.w());
  proof.result("dattn.c_attn.weight", "WQ", "dWqkv = X' [dQ dK dV]_i", layer.dqkv(),
               own_columns(s.w(), s, rank, p));
  proof.result("dattn.c_attn.bias", "1Q", "db    = sum [dQ dK dV]_i", layer.dc_qkv(),
               own_columns(1, s, rank, p));
  proof.result("dattn.c_proj.weight", "WW", "dWo   = O_i' dY", layer.c_proj.da.local(), proj);
  proof.result("dattn.c_proj.bias", "1W", "dc    = sum dY", layer.c_proj.dc.local(), row);
}

template <class Attention>
Attention make_attention(Proof& proof, const Sizes& s, int rank, int p, const Core& core) {
  const double scale = 1 / std::sqrt(static_cast<double>(s.w()));
  const Tensor qkv = proof.weight("attn.c_attn.weight", "WQ", own_columns(s.w(), s, rank, p), 3 * scale);
  const Tensor c_qkv = proof.weight("attn.c_attn.bias", "1Q", own_columns(1, s, rank, p));
  const Tensor proj = proof.weight("attn.c_proj.weight", "WW", Slice::rows(s.w(), s.w(), rank, p), scale);
  const Tensor c = proof.weight("attn.c_proj.bias", "1W", Slice::whole(1, s.w()));
  return {qkv, c_qkv, proj, c, own_heads(s.shape, rank, p), core};
}

/// Sends of `halves` sandwiches, one of them attention's.
inline void expect_sums(Proof& proof, const Sizes& s, std::int64_t p, int halves) {
  const std::int64_t e = proof.element_bytes(), nw = s.n() * s.w() * halves,
                     more = s.shares_keys(p) ? 2 * s.n() * s.shape.kv_width() : 0;  // [dK dV]
  const std::string sums = halves == 1 ? "N W" : format("{} N W", halves), cost = format("2 (p-1) {} ", e);
  proof.expect_traffic("fwd", "all_reduce", halves == 1 ? "Y" : "attention, MLP", halves,
                       2 * (p - 1) * nw * e, cost + sums);
  proof.expect_traffic("bwd", "all_reduce", more > 0 ? "dX, [dK dV]" : "dX", halves + (more > 0),
                       2 * (p - 1) * (nw + more) * e, cost + (more > 0 ? "(" + sums + " + 2 N d)" : sums));
}

/// Y and dX, each pass in its phase of the ledger.
template <class Layer>
std::array<Tensor, 2> both_passes(const Layer& layer, typename Layer::Saved& saved, const Tensor& x,
                                  const Tensor& dy, const TensorParallel& tp) {
  Placed<Replicated> y, dx;
  {
    const Phase phase = tp.comm().phase("fwd");
    y = layer.forward(Placed<Replicated>(x), saved, tp);
  }
  const Phase phase = tp.comm().phase("bwd");
  dx = layer.backward_input(Placed<Replicated>(dy), saved, tp);
  layer.backward_weight(saved);
  return {y.local(), dx.local()};
}

template <class Attention>
void prove_attention(Proof& proof, Communicator& comm, const Sizes& s) {
  const TensorParallel tp(comm);
  const int rank = tp.rank(), p = tp.size();
  const std::int64_t e = proof.element_bytes();
  const Core core = proof.exact() ? linear_core : Core{};
  const Slice all = Slice::whole(s.n(), s.w());
  const Tensor x = proof.input("X", "NW", all), dy = proof.input("dY", "NW", all);
  const auto layer = make_attention<Attention>(proof, s, rank, p, core);
  typename Attention::Saved saved;
  const auto [y, dx] = both_passes(layer, saved, x, dy, tp);
  proof.measure_memory();
  proof.result("O", "NW", "O  = [heads_1, heads_2]", saved.c_proj.x.local(),
               slice_of<Shard<1>>(s.n(), s.w(), comm));
  proof.result("Y", "NW", "Y  = O1 Wo1 + O2 Wo2 + c", y, all);
  proof.result("dX", "NW", "dX = dQKV1 Wqkv1' + dQKV2 Wqkv2'", dx, all);
  attention_results(proof, s, rank, p, layer);
  const Core reference = proof.exact() ? linear_core : reference_core;
  proof.measured_baseline([=](const auto& in) { return unsplit(in, s, reference); });
  for (const auto& [name, wrong] :
       {std::pair{"the scores were divided by d, not by its root.", Core{head_by_head<0, true>}},
        {"the mask is off by one: each query saw the key after it.", Core{head_by_head<1>}}})
    proof.mistake("O", name, [=, wrong = wrong](const auto& in, int) { return unsplit_heads(in, s, wrong); });
  if (!s.shares_keys(p))
    proof.mistake("O",
                  "[Q | K | V] was cut contiguously, as one matrix: its columns are other heads', or keys.",
                  [=](const auto& in, int) { return contiguous_heads(in, s, core, p); });
  expect_sums(proof, s, p, 1);
  const auto activations = [&](int over) {
    return s.n() * (4 * s.w() + 2 * own_qkv(s, over) + s.w() / over) + core_saved(s, over, proof.exact());
  };
  const std::string weights = format(
      "{}{}", e, s.shares_keys(p) ? " ((W+1)(W/p + 2 d) + W W/p + W)" : " ((W+1)(W + 2 KV)/p + W W/p + W)");
  proof.expect_memory(MemoryKind::weight, "Wqkv b Wo c", attention_weights(s, 1) * e,
                      attention_weights(s, p) * e, weights);
  proof.expect_memory(MemoryKind::gradient, "dWqkv db dWo dc", attention_weights(s, 1) * e,
                      attention_weights(s, p) * e, weights);
  proof.expect_memory(MemoryKind::activation, "X dX Y dY QKV dQKV O P", activations(1) * e,
                      activations(p) * e, format("{} (N (4 W + 2 QKV_i + W/p) + P_i)", e));
}

}  // namespace tessera::attention_heads
