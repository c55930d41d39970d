// What lesson 03 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "01_mlp/harness/sizes.hpp"
#include "03_row_split/row_split.hpp"

namespace tessera::row_split {

using Sizes = LayerSizes;

/// The unsplit Y = X A + c and its gradients, for Tensor and for Bounded. The scattered form has the same Y
/// and dX.
inline auto reference = [](const auto& in) {
  const auto x = in("X"), a = in("A"), c = in("c"), dy = in("dY");
  const auto y = add_bias(matmul(x, a), c), dx = matmul(dy, t(a));
  return Named<std::decay_t<decltype(x)>>{{"Y", y},
                                          {"Y_scattered", y},
                                          {"dX", dx},
                                          {"dX_scattered", dx},
                                          {"dA", matmul(t(x), dy)},
                                          {"dc", sum_rows(dy)}};
};

/// Names the known mistakes of `result` = x(in) A + c, where each rank multiplies its columns of x(in) by its
/// rows of A. `a` and `c` are the names of the inputs A and c, and `bias` is what a message calls c.
template <class X>
void mistakes_of_sum(Proof& proof, const std::string& result, const std::string& bias, const X& x,
                     const std::string& a, const std::string& c) {
  const int p = proof.ranks();
  proof.mistake(result, format("{} equals rank {{rank}}'s own term plus {}: was it all-reduced?", result, c),
                [=](const auto& in, int rank) {
                  const Tensor left = x(in);
                  const auto [begin, end] = part(left.cols(), rank, p);
                  return add_bias(matmul(left.column_range(begin, end), in(a).row_range(begin, end)), in(c));
                });
  for (const auto& [name, terms, times] :
       {std::tuple{"holds the " + bias + " p times: was it added before the sum?", 1.0, 1.0 * p},
        {"holds the mean of the terms, not their sum.", 1.0 / p, 1.0},
        {"lacks the bias.", 1.0, 0.0}})
    proof.mistake(result, format("{} {}", result, name),
                  [=, terms = terms, times = times](const auto& in, int) {
                    return add_bias(scale(matmul(x(in), in(a)), terms), scale(in(c), times));
                  });
}

/// This rank's columns of X (N, F), the whole dY (N, W), and the layer with this rank's rows of A.
struct Built {
  Placed<Shard<1>> x;
  Placed<Replicated> dy;
  RowParallelLinear layer;
};

inline Built build(Proof& proof, const Sizes& s) {
  proof.axes(s.axes());
  return {proof.input<Shard<1>>("X", "NF"),
          proof.input<Replicated>("dY", "NW"),
          {proof.weight<Shard<0>>("A", "FW"), proof.weight<Replicated>("c", "1W")}};
}

inline void check(Proof& proof, const Sizes& s, const RowParallelLinear& layer, const Step& found,
                  const ScatteredStep& scattered) {
  proof.measure_memory();
  proof.result("Y", "NW", "Y  = X1 A1 + X2 A2 + c", found.y);
  proof.result("Y_scattered", "NW", "Y, by reduce-scatter", scattered.y);
  proof.result("dX", "NF", "dX = [dY A1', dY A2']", found.dx);
  proof.result("dX_scattered", "NF", "dX, dY by all-gather", scattered.dx);
  proof.result("dA", "FW", "dA = [X1' dY; X2' dY]", layer.da);
  proof.result("dc", "1W", "dc = sum dY", layer.dc);
  proof.baseline(reference);
  const std::int64_t n = s.tokens, w = s.width, f = s.ffn, p = proof.ranks(), b = proof.element_bytes();
  for (const char* name : {"Y", "Y_scattered"})
    mistakes_of_sum(
        proof, name, "bias", [](const auto& in) { return in("X"); }, "A", "c");

  const std::string sums = format("(p-1) {} N W", b);
  proof.expect_traffic("fwd", "all_reduce", "Y", 1, 2 * (p - 1) * n * w * b, "2 " + sums);
  proof.expect_traffic("fwd-scattered", "reduce_scatter", "Y", 1, (p - 1) * n * w * b, sums);
  proof.expect_traffic("bwd-scattered", "all_gather", "dY", 1, (p - 1) * n * w * b, sums);
  proof.expect_weights("A c", "dA dc", (f + 1) * w, (f / p + 1) * w, "(F/p + 1) W");
  proof.expect_memory(MemoryKind::activation, "X dX Y dY", 2 * n * (f + w) * b, 2 * n * (f / p + w) * b,
                      format("{} N (F/p + W)", 2 * b));
}

/// The lesson's run with its checks, as main makes it.
inline void prove(Proof& proof, Communicator& comm, const Sizes& s) {
  const TensorParallel tp(comm);
  const Built built = build(proof, s);
  const Step found = step(built.layer, built.x, built.dy, tp);
  const MemoryScope beside(MemoryKind::check);
  check(proof, s, built.layer, found, step_scattered(built.layer, built.x, built.dy, tp));
}

}  // namespace tessera::row_split
