// What lesson 02 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "02_column_split/column_split.hpp"
#include "app/proof.hpp"
#include "tensor/error.hpp"

namespace tessera::column_split {

struct Sizes {
  std::int64_t tokens = 48, width = 96, ffn = 192;
};

/// Y = X A + c, unsplit, for Tensor and for Bounded.
inline auto whole = [](const auto& in) {
  const auto x = in("X"), a = in("A"), c = in("c"), dy = in("dY");
  return Named<std::decay_t<decltype(x)>>{{"Y", add_bias(matmul(x, a), c)},
                                          {"dX", matmul(dy, t(a))},
                                          {"dA", matmul(t(x), dy)},
                                          {"dc", sum_rows(dy)}};
};

inline void prove(Proof& proof, Communicator& comm, const Sizes& s) {
  const TensorParallel tp(comm);
  const std::int64_t n = s.tokens, k = s.width, f = s.ffn, p = tp.size(), b = proof.element_bytes();
  const auto columns = [&](std::int64_t rows) { return slice_of<Shard<1>>(rows, f, comm); };
  const auto everywhere = [&](std::int64_t rows, std::int64_t cols) { return Slice::whole(rows, cols); };

  const Placed<Replicated> x(proof.input("X", "NK", everywhere(n, k)));
  const Placed<Replicated> dy(proof.input("dY", "NF", everywhere(n, f)));
  const ColumnParallelLinear layer(proof.weight("A", "KF", columns(k)), proof.weight("c", "1F", columns(1)));
  ColumnParallelLinear::Saved saved;

  Placed<Replicated> y, dx;
  {
    const auto phase = comm.phase("fwd");
    y = tp.all_gather(layer.forward(x, saved));
  }
  {
    const auto phase = comm.phase("bwd");
    dx = layer.backward_input(tp.take_shard<1>(dy), saved, tp);  // each rank's Y fed its own columns of dY
    layer.backward_weight(saved);
  }
  proof.measure_memory();

  proof.result("Y", "NF", "Y  = [X A1, X A2] + c", y.local(), everywhere(n, f));
  proof.result("dX", "NK", "dX = dY1 A1' + dY2 A2'", dx.local(), everywhere(n, k));
  proof.result("dA", "KF", "dA = [X' dY1, X' dY2]", layer.da.local(), columns(k));
  proof.result("dc", "1F", "dc = [sum dY1, sum dY2]", layer.dc.local(), columns(1));
  proof.baseline(whole);
  proof.mistake("dX", "dX equals rank {rank}'s own term: was it all-reduced?", [=](const auto& in, int rank) {
    const Range own = part(f, rank, static_cast<int>(p));
    return matmul(in("dY").column_range(own.begin, own.end), t(in("A").column_range(own.begin, own.end)));
  });
  proof.mistake("Y", "Y lacks the bias.", [](const auto& in, int) { return matmul(in("X"), in("A")); });

  proof.expect_traffic("fwd", "all_gather", "Y", 1, (p - 1) * n * f * b, format("(p-1) {} N F", b));
  proof.expect_traffic("bwd", "all_reduce", "dX", 1, 2 * (p - 1) * n * k * b, format("2 (p-1) {} N K", b));
  proof.expect_memory(MemoryKind::weight, "A c", (k + 1) * f * b, (k + 1) * f / p * b,
                      format("{} (K + 1) F/p", b));
  proof.expect_memory(MemoryKind::gradient, "dA dc", (k + 1) * f * b, (k + 1) * f / p * b,
                      format("{} (K + 1) F/p", b));
  proof.expect_memory(MemoryKind::activation, "X dX Y dY", 2 * n * (k + f) * b,
                      (2 * n * (k + f) + n * f / p) * b, format("{} (2 N (K + F) + N F/p)", b));
}

}  // namespace tessera::column_split
