// What lesson 02 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "01_mlp/harness/sizes.hpp"
#include "02_column_split/column_split.hpp"

namespace tessera::column_split {

using Sizes = LayerSizes;

/// The unsplit Y = X A + c and its gradients, for Tensor and for Bounded.
inline auto reference = [](const auto& in) {
  const auto x = in("X"), a = in("A"), c = in("c"), dy = in("dY");
  return Named<std::decay_t<decltype(x)>>{{"Y", add_bias(matmul(x, a), c)},
                                          {"dX", matmul(dy, t(a))},
                                          {"dA", matmul(t(x), dy)},
                                          {"dc", sum_rows(dy)}};
};

/// X (N, W) and dY (N, F), whole on every rank, and the layer with this rank's columns of A and c.
struct Built {
  Placed<Replicated> x, dy;
  ColumnParallelLinear layer;
};

inline Built build(Proof& proof, const Sizes& s) {
  proof.axes(s.axes());
  return {proof.input<Replicated>("X", "NW"),
          proof.input<Replicated>("dY", "NF"),
          {proof.weight<Shard<1>>("A", "WF"), proof.weight<Shard<1>>("c", "1F")}};
}

inline void check(Proof& proof, const Sizes& s, const ColumnParallelLinear& layer, const Step& found) {
  proof.measure_memory();
  proof.result("Y", "NF", "Y  = [X A1, X A2] + c", found.y);
  proof.result("dX", "NW", "dX = dY1 A1' + dY2 A2'", found.dx);
  proof.result("dA", "WF", "dA = [X' dY1, X' dY2]", layer.da);
  proof.result("dc", "1F", "dc = [sum dY1, sum dY2]", layer.dc);
  proof.baseline(reference);
  const std::int64_t n = s.tokens, w = s.width, f = s.ffn, p = proof.ranks(), b = proof.element_bytes();
  proof.mistake("dX", "dX equals rank {rank}'s own term: was it all-reduced?", [=](const auto& in, int rank) {
    const Range own = part(f, rank, p);
    return matmul(in("dY").column_range(own.begin, own.end), t(in("A").column_range(own.begin, own.end)));
  });
  proof.mistake("Y", "Y lacks the bias.", [](const auto& in, int) { return matmul(in("X"), in("A")); });

  proof.expect_traffic("fwd", "all_gather", "Y", 1, (p - 1) * n * f * b, format("(p-1) {} N F", b));
  proof.expect_traffic("bwd", "all_reduce", "dX", 1, 2 * (p - 1) * n * w * b, format("2 (p-1) {} N W", b));
  proof.expect_weights("A c", "dA dc", (w + 1) * f, (w + 1) * f / p, "(W + 1) F/p");
  proof.expect_memory(MemoryKind::activation, "X dX Y dY", 2 * n * (w + f) * b,
                      (2 * n * (w + f) + n * f / p) * b, format("{} (2 N (W + F) + N F/p)", b));
}

/// The lesson's run with its checks, as main makes it.
inline void prove(Proof& proof, Communicator& comm, const Sizes& s) {
  const Built built = build(proof, s);
  check(proof, s, built.layer, step(built.layer, built.x, built.dy, TensorParallel(comm)));
}

}  // namespace tessera::column_split
