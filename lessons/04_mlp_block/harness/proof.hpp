// What lesson 04 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "01_mlp/harness/proof.hpp"
#include "03_row_split/harness/proof.hpp"
#include "04_mlp_block/mlp_block.hpp"

namespace tessera::mlp_block {

using Sizes = LayerSizes;

/// How many elements each of p ranks holds of the weights A, c1, B, c2, and of the activations X, dX, Y, dY,
/// U = X A + c1, dU, H.
inline std::int64_t weights_of(const Sizes& s, std::int64_t p) {
  return (2 * s.width + 1) * s.ffn / p + s.width;
}
inline std::int64_t activations_of(const Sizes& s, std::int64_t p) {
  return s.tokens * (4 * s.width + 3 * s.ffn / p);
}

/// The unsplit block is the MLP of lesson 01. The plain way must give the same results.
inline auto reference(Activation f) {
  return [f](const auto& in) {
    auto results = mlp::reference(f)(in);
    for (const std::string name : {"Y", "dX", "dA", "dc1", "dB", "dc2"})
      results[name + "_plain"] = results.at(name);
    return results;
  };
}

/// X and dY (N, W), whole on every rank, and the block with this rank's columns of A and rows of B.
struct Built {
  Placed<Replicated> x, dy;
  ParallelMlp block;
};

inline Built build(Proof& proof, const Sizes& s, Activation wanted) {
  proof.axes(s.axes());
  // Weights with a variance of 1/(3 fan-in) keep every activation near 1, whatever the width.
  const double a_scale = 1 / std::sqrt(s.width), b_scale = 1 / std::sqrt(s.ffn);
  return {proof.input<Replicated>("X", "NW"),
          proof.input<Replicated>("dY", "NW"),
          {{proof.weight<Shard<1>>("A", "WF", a_scale), proof.weight<Shard<1>>("c1", "1F")},
           {proof.weight<Shard<0>>("B", "FW", b_scale), proof.weight<Replicated>("c2", "1W")},
           proof.exact() ? Activation::relu : wanted}};  // gelu is exact nowhere
}

inline void check(Proof& proof, const Sizes& s, const ParallelMlp& block, const Step<ParallelMlp>& found) {
  proof.measure_memory();
  proof.result("H", "NF", "H  = f(X [A1 A2] + c1)", found.saved.fc2.x);
  proof.result("Y", "NW", "Y  = H1 B1 + H2 B2 + c2", found.y);
  proof.result("dX", "NW", "dX = dU1 A1' + dU2 A2'", found.dx);
  proof.result("dA", "WF", "dA = [X' dU1, X' dU2]", block.fc1.da);
  proof.result("dc1", "1F", "dc1 = [sum dU1, sum dU2]", block.fc1.dc);
  proof.result("dB", "FW", "dB = [H1' dY; H2' dY]", block.fc2.da);
  proof.result("dc2", "1W", "dc2 = sum dY", block.fc2.dc);
  proof.baseline(mlp_block::reference(block.f));
  const Activation activation = block.f;
  const std::int64_t n = s.tokens, w = s.width, f = s.ffn, p = proof.ranks(), e = proof.element_bytes();
  row_split::mistakes_of_sum(
      proof, "Y", "bias c2", [=](const auto& in) { return mlp_block::reference(activation)(in).at("H"); },
      "B", "c2");
  proof.mistake("dX", "dX equals rank {rank}'s own term: was it all-reduced?", [=](const auto& in, int rank) {
    const Range r = part(f, rank, p);
    const Tensor pre = add_bias(matmul(in("X"), in("A")), in("c1"));
    const Tensor dpre = mlp::activate_backward(matmul(in("dY"), t(in("B"))), pre, activation);
    return matmul(dpre.column_range(r.begin, r.end), t(in("A").column_range(r.begin, r.end)));
  });

  for (const auto& [phase, label] : {std::pair{"fwd", "Y"}, {"bwd", "dX"}})
    proof.expect_traffic(phase, "all_reduce", label, 1, 2 * (p - 1) * n * w * e, format("2 (p-1) {} N W", e));
  proof.expect_weights("A c1 B c2", "dA dc1 dB dc2", weights_of(s, 1), weights_of(s, p),
                       "((2 W + 1) F/p + W)");
  proof.expect_memory(MemoryKind::activation, "X dX Y dY U dU H", activations_of(s, 1) * e,
                      activations_of(s, p) * e, format("{} N (4 W + 3 F/p)", e));
}

/// The layers of the plain way with the same weights, but with B cut by columns.
inline AllGatherMlp build_plain(const Proof& proof, const ParallelMlp& block) {
  return {{block.fc1.a.local(), block.fc1.c.local()},
          {proof.other_slice("B", proof.slice<Shard<1>>("FW")),
           proof.other_slice("c2", proof.slice<Shard<1>>("1W"))},
          block.f};
}

inline void check_plain(Proof& proof, const Sizes& s, const AllGatherMlp& plain,
                        const Step<AllGatherMlp>& found) {
  proof.result("Y_plain", "NW", "plain way: Y", found.y);
  proof.result("dX_plain", "NW", "plain way: dX", found.dx);
  proof.result("dA_plain", "WF", "plain way: dA", plain.fc1.da);
  proof.result("dc1_plain", "1F", "plain way: dc1", plain.fc1.dc);
  proof.result("dB_plain", "FW", "plain way: dB", plain.fc2.da);
  proof.result("dc2_plain", "1W", "plain way: dc2", plain.fc2.dc);
  const std::int64_t e = proof.element_bytes(), sent = (proof.ranks() - 1) * s.tokens * e;  // of one column
  const std::string formula = format("(p-1) {} N ", e);
  proof.expect_traffic("plain-fwd", "broadcast", "X", 1, sent * s.width, formula + "W");
  proof.expect_traffic("plain-fwd", "all_gather", "H, Y", 2, sent * (s.ffn + s.width), formula + "(F + W)");
  proof.expect_traffic("plain-bwd", "reduce_scatter", "dH", 1, sent * s.ffn, formula + "F");
  proof.expect_traffic("plain-bwd", "all_reduce", "dX", 1, 2 * sent * s.width, "2 " + formula + "W");
}

/// The lesson's run with its checks, as main makes it.
inline void prove(Proof& proof, Communicator& comm, const Sizes& s, Activation wanted) {
  const TensorParallel tp(comm);
  const Built built = build(proof, s, wanted);
  const auto found = step(built.block, built.x, built.dy, tp);
  const MemoryScope beside(MemoryKind::check);
  const AllGatherMlp plain = build_plain(proof, built.block);
  const auto gathered = step(plain, broadcast_x(built.x, tp), built.dy, tp, "plain-");
  check(proof, s, built.block, found);
  check_plain(proof, s, plain, gathered);
}

}  // namespace tessera::mlp_block
