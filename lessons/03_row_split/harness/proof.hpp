// What lesson 03 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "03_row_split/row_split.hpp"
#include "app/proof.hpp"
#include "tensor/error.hpp"

namespace tessera::row_split {

struct Sizes {
  std::int64_t tokens = 48, width = 96, ffn = 192;
};

/// Y = X A + c, unsplit, for Tensor and for Bounded. The scattered way computes the same Y and dX.
inline auto whole = [](const auto& in) {
  const auto x = in("X"), a = in("A"), c = in("c"), dy = in("dY");
  const auto y = add_bias(matmul(x, a), c), dx = matmul(dy, t(a));
  return Named<std::decay_t<decltype(x)>>{{"Y", y},
                                          {"Y_scattered", y},
                                          {"dX", dx},
                                          {"dX_scattered", dx},
                                          {"dA", matmul(t(x), dy)},
                                          {"dc", sum_rows(dy)}};
};

inline void prove(Proof& proof, Communicator& comm, const Sizes& s) {
  const TensorParallel tp(comm);
  const std::int64_t n = s.tokens, k = s.width, f = s.ffn, p = tp.size(), b = proof.element_bytes();
  const Slice x_slice = slice_of<Shard<1>>(n, f, comm), a_slice = slice_of<Shard<0>>(f, k, comm);
  const Slice y_slice = Slice::whole(n, k), c_slice = Slice::whole(1, k);
  const Slice y_rows = slice_of<Shard<0>>(n, k, comm);

  const Placed<Shard<1>> x(proof.input("X", "NF", x_slice));
  const Placed<Replicated> dy(proof.input("dY", "NK", y_slice));
  const RowParallelLinear layer(proof.weight("A", "FK", a_slice), proof.weight("c", "1K", c_slice));
  RowParallelLinear::Saved saved;

  Placed<Replicated> y;
  Placed<Shard<1>> dx;
  {
    const auto phase = comm.phase("fwd");
    y = layer.forward(x, saved, tp);
  }
  {
    const auto phase = comm.phase("bwd");
    dx = layer.backward_input(dy, saved);
    layer.backward_weight(saved);
  }
  proof.measure_memory();

  // The other way to take the sum: each rank keeps its own tokens. Backward, their gradients are gathered
  // first. It runs beside the layer, and its memory is not the layer's.
  const MemoryScope scope(MemoryKind::check);
  Placed<Shard<0>> y_scattered;
  Placed<Shard<1>> dx_scattered;
  {
    const auto phase = comm.phase("fwd-scattered");
    y_scattered = layer.forward_scattered(x, saved, tp);
  }
  {
    const auto phase = comm.phase("bwd-scattered");
    dx_scattered = layer.backward_input(tp.all_gather(tp.take_shard<0>(dy)), saved);
  }

  proof.result("Y", "NK", "Y  = X1 A1 + X2 A2 + c", y.local(), y_slice);
  proof.result("Y_scattered", "NK", "Y, by reduce-scatter", y_scattered.local(), y_rows);
  proof.result("dX", "NF", "dX = [dY A1', dY A2']", dx.local(), x_slice);
  proof.result("dX_scattered", "NF", "dX, dY by all-gather", dx_scattered.local(), x_slice);
  proof.result("dA", "FK", "dA = [X1' dY; X2' dY]", layer.da.local(), a_slice);
  proof.result("dc", "1K", "dc = sum dY", layer.dc.local(), c_slice);
  proof.baseline(whole);
  for (const std::string name : {"Y", "Y_scattered"}) {
    proof.mistake(name, name + " equals rank {rank}'s own term plus c: was it all-reduced?",
                  [=](const auto& in, int rank) {
                    const Range own = part(f, rank, static_cast<int>(p));
                    return add_bias(matmul(in("X").column_range(own.begin, own.end),
                                           in("A").row_range(own.begin, own.end)),
                                    in("c"));
                  });
    proof.mistake(name, name + " holds the bias p times: was it added before the sum?",
                  [=](const auto& in, int) {
                    return add_bias(matmul(in("X"), in("A")), scale(in("c"), static_cast<double>(p)));
                  });
    proof.mistake(name, name + " holds the mean of the terms, not their sum.", [=](const auto& in, int) {
      return add_bias(scale(matmul(in("X"), in("A")), 1.0 / static_cast<double>(p)), in("c"));
    });
    proof.mistake(name, name + " lacks the bias.",
                  [](const auto& in, int) { return matmul(in("X"), in("A")); });
  }

  proof.expect_traffic("fwd", "all_reduce", "Y", 1, 2 * (p - 1) * n * k * b, format("2 (p-1) {} N K", b));
  proof.expect_traffic("fwd-scattered", "reduce_scatter", "Y", 1, (p - 1) * n * k * b,
                       format("(p-1) {} N K", b));
  proof.expect_traffic("bwd-scattered", "all_gather", "dY", 1, (p - 1) * n * k * b,
                       format("(p-1) {} N K", b));
  proof.expect_memory(MemoryKind::weight, "A c", (f + 1) * k * b, (f / p + 1) * k * b,
                      format("{} (F/p + 1) K", b));
  proof.expect_memory(MemoryKind::gradient, "dA dc", (f + 1) * k * b, (f / p + 1) * k * b,
                      format("{} (F/p + 1) K", b));
  proof.expect_memory(MemoryKind::activation, "X dX Y dY", 2 * n * (f + k) * b, 2 * n * (f / p + k) * b,
                      format("{} N (F/p + K)", 2 * b));
}

}  // namespace tessera::row_split
