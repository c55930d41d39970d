// The block's half of lesson 05's claims, and the entry to both.
#pragma once

#include "05_attention_heads/harness/proof.hpp"

namespace tessera::attention_heads {

template <class Attention>
void prove_block(Proof& proof, Communicator& comm, const Sizes& s) {
  const TensorParallel tp(comm);
  const int rank = tp.rank(), p = tp.size();
  const std::int64_t e = proof.element_bytes(), n = s.n(), w = s.w(), f = 4 * w;
  const Slice all = Slice::whole(n, w), row = Slice::whole(1, w);
  const double w_scale = 1 / std::sqrt(static_cast<double>(w)), f_scale = w_scale / 2;
  const Tensor x = proof.input("X", "NW", all), dy = proof.input("dY", "NW", all);
  const auto norm = [&](const std::string& name) {
    const Placed<Replicated> weight(proof.weight(name + ".weight", "1W", row));
    return Norm{weight, Placed<Replicated>(proof.weight(name + ".bias", "1W", row))};
  };
  const Slice fc = slice_of<Shard<1>>(w, f, comm), c_fc = slice_of<Shard<1>>(1, f, comm),
              proj = slice_of<Shard<0>>(f, w, comm);
  const TransformerBlock<Attention> block{
      norm("ln_1"),
      make_attention<Attention>(proof, s, rank, p, Core{}),
      norm("ln_2"),
      {{proof.weight("mlp.c_fc.weight", "WF", fc, w_scale), proof.weight("mlp.c_fc.bias", "1F", c_fc)},
       {proof.weight("mlp.c_proj.weight", "FW", proj, f_scale), proof.weight("mlp.c_proj.bias", "1W", row)}}};
  typename TransformerBlock<Attention>::Saved saved;
  const auto [y, dx] = both_passes(block, saved, x, dy, tp);
  proof.measure_memory();
  proof.result("Y", "NW", "Y  = H + mlp(ln_2 H), H = X + attn(ln_1 X)", y, all);
  proof.result("dX", "NW", "dX = dH + ln_1' attn' dH", dx, all);
  attention_results(proof, s, rank, p, block.attn);
  proof.result("dmlp.c_fc.weight", "WF", "dA    = ln_2(H)' [dP1, dP2]", block.mlp.fc1.da.local(), fc);
  proof.result("dmlp.c_fc.bias", "1F", "dc1   = [sum dP1, sum dP2]", block.mlp.fc1.dc.local(), c_fc);
  proof.result("dmlp.c_proj.weight", "FW", "dB    = [H1' dY; H2' dY]", block.mlp.fc2.da.local(), proj);
  proof.result("dmlp.c_proj.bias", "1W", "dc2   = sum dY", block.mlp.fc2.dc.local(), row);
  double apart = 0;
  for (const auto& [name, norms] : {std::pair{"ln_1", &block.ln_1}, {"ln_2", &block.ln_2}})
    for (const auto& [what, gradient] :
         {std::pair{".weight", norms->dweight.local()}, {".bias", norms->dbias.local()}}) {
      proof.result(format("d{}{}", name, what), "1W", format("d{}{}, whole on every rank", name, what),
                   gradient, row);
      apart += ranks_apart(comm, gradient);
    }
  proof.claim("layer-norm gradients: equal bits on all ranks", apart, 0,
              "a norm's gradient differs between ranks: was dX all-reduced before it?");
  proof.measured_baseline([=](const auto& in) { return unsplit(in, s, reference_core); });
  expect_sums(proof, s, p, 2);

  const auto weights = [&](int over) {
    return attention_weights(s, over) + (2 * w + 1) * f / over + w + 4 * w;
  };
  // X dX Y dY, H dH, and each norm's output and its gradient; with dropout, what it leaves of dY as well.
  const std::int64_t whole = s.shape.options.dropout > 0 ? 11 : 10;
  const auto activations = [&](int over) {
    return n * (whole * w + 2 * own_qkv(s, over) + w / over + 3 * f / over + 4) + core_saved(s, over, false);
  };
  proof.expect_memory(MemoryKind::weight, "all weights", weights(1) * e, weights(p) * e,
                      format("{} (attention + ((2 W + 1) F/p + W) + 4 W)", e));
  proof.expect_memory(MemoryKind::gradient, "their gradients", weights(1) * e, weights(p) * e,
                      format("{} (attention + ((2 W + 1) F/p + W) + 4 W)", e));
  proof.expect_memory(MemoryKind::activation, "activations", activations(1) * e, activations(p) * e,
                      format("{} (N ({} W + 2 QKV_i + W/p + 3 F/p + 4) + P_i)", e, whole));
}

/// In the exact tier the block is its attention's projections: a layer norm is exact nowhere.
inline void prove(Proof& proof, Communicator& comm, Sizes s) {
  if (proof.exact()) s.part = Part::attention;
  const bool block = s.part == Part::block;
  if (s.shares_keys(comm.size()))
    block ? prove_block<MultiQueryAttention>(proof, comm, s)
          : prove_attention<MultiQueryAttention>(proof, comm, s);
  else
    block ? prove_block<ParallelAttention>(proof, comm, s)
          : prove_attention<ParallelAttention>(proof, comm, s);
}

}  // namespace tessera::attention_heads
