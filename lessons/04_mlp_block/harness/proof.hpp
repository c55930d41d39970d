// What lesson 04 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include <cmath>

#include "01_mlp/harness/proof.hpp"
#include "04_mlp_block/mlp_block.hpp"
#include "app/proof.hpp"
#include "tensor/error.hpp"

namespace tessera::mlp_block {

struct Sizes {
  std::int64_t tokens = 48, width = 96, ffn = 192;

  /// Elements of a rank over p: A, c1, B, c2; and X, dX, Y, dY, P = X A + c1, dP, H.
  std::int64_t weights(std::int64_t p) const { return (2 * width + 1) * ffn / p + width; }
  std::int64_t activations(std::int64_t p) const { return tokens * (4 * width + 3 * ffn / p); }
};

/// The block, unsplit: lesson 01's formula. The plain way computes the same.
inline auto unsplit(Activation f) {
  return [f](const auto& in) {
    auto results = mlp::whole(f)(in);
    for (const std::string name : {"Y", "dX", "dA", "dc1", "dB", "dc2"})
      results[name + "_plain"] = results.at(name);
    return results;
  };
}

/// Beside it, the plain way with its bytes: right too, checked too. It is no part of the block's memory.
inline void prove_plain(Proof& proof, Communicator& comm, const Sizes& s, const Tensor& x_whole,
                        const Tensor& dy, const ParallelMlp& block) {
  const MemoryScope scope(MemoryKind::check);
  const TensorParallel tp(comm);
  const std::int64_t n = s.tokens, k = s.width, f = s.ffn, p = tp.size(), e = proof.element_bytes();
  const Slice b_slice = slice_of<Shard<1>>(f, k, comm), c2_slice = slice_of<Shard<1>>(1, k, comm);
  const AllGatherMlp plain{{block.fc1.a.local(), block.fc1.c.local()},
                           {proof.other_slice("B", b_slice), proof.other_slice("c2", c2_slice)},
                           block.f};
  AllGatherMlp::Saved saved;
  const Tensor x = comm.rank() == 0 ? x_whole : empty_like(x_whole);
  Placed<Replicated> y, dx;
  {
    const auto phase = comm.phase("plain-fwd");
    comm.broadcast(x, 0);  // where X starts on one rank
    y = plain.forward(Placed<Replicated>(x), saved, tp);
  }
  {
    const auto phase = comm.phase("plain-bwd");
    dx = plain.backward_input(Placed<Replicated>(dy), saved, tp);
    plain.backward_weight(saved);
  }
  proof.result("Y_plain", "NK", "plain way: Y", y.local(), Slice::whole(n, k));
  proof.result("dX_plain", "NK", "plain way: dX", dx.local(), Slice::whole(n, k));
  proof.result("dA_plain", "KF", "plain way: dA", plain.fc1.da.local(), slice_of<Shard<1>>(k, f, comm));
  proof.result("dc1_plain", "1F", "plain way: dc1", plain.fc1.dc.local(), slice_of<Shard<1>>(1, f, comm));
  proof.result("dB_plain", "FK", "plain way: dB", plain.fc2.da.local(), b_slice);
  proof.result("dc2_plain", "1K", "plain way: dc2", plain.fc2.dc.local(), c2_slice);
  proof.expect_traffic("plain-fwd", "broadcast", "X", 1, (p - 1) * n * k * e, format("(p-1) {} N K", e));
  proof.expect_traffic("plain-fwd", "all_gather", "H, Y", 2, (p - 1) * n * (f + k) * e,
                       format("(p-1) {} N (F + K)", e));
  proof.expect_traffic("plain-bwd", "reduce_scatter", "dH", 1, (p - 1) * n * f * e,
                       format("(p-1) {} N F", e));
  proof.expect_traffic("plain-bwd", "all_reduce", "dX", 1, 2 * (p - 1) * n * k * e,
                       format("2 (p-1) {} N K", e));
}

inline void prove(Proof& proof, Communicator& comm, const Sizes& s, Activation wanted) {
  const TensorParallel tp(comm);
  const std::int64_t n = s.tokens, k = s.width, f = s.ffn, p = tp.size(), e = proof.element_bytes();
  const Activation activation = proof.exact() ? Activation::relu : wanted;  // gelu is exact nowhere
  const Slice all = Slice::whole(n, k), row = Slice::whole(1, k), h_slice = slice_of<Shard<1>>(n, f, comm);
  const Slice a_slice = slice_of<Shard<1>>(k, f, comm), c1_slice = slice_of<Shard<1>>(1, f, comm);
  const Slice b_slice = slice_of<Shard<0>>(f, k, comm);
  // Weights of variance 1/(3 fan-in) keep every activation near 1 whatever the width.
  const double a_scale = 1 / std::sqrt(static_cast<double>(k)),
               b_scale = 1 / std::sqrt(static_cast<double>(f));

  const Tensor x = proof.input("X", "NK", all), dy = proof.input("dY", "NK", all);
  const ParallelMlp block{{proof.weight("A", "KF", a_slice, a_scale), proof.weight("c1", "1F", c1_slice)},
                          {proof.weight("B", "FK", b_slice, b_scale), proof.weight("c2", "1K", row)},
                          activation};
  ParallelMlp::Saved saved;
  Placed<Replicated> y, dx;
  {
    const auto phase = comm.phase("fwd");
    y = block.forward(Placed<Replicated>(x), saved, tp);
  }
  {
    const auto phase = comm.phase("bwd");
    dx = block.backward_input(Placed<Replicated>(dy), saved, tp);
    block.backward_weight(saved);
  }
  proof.measure_memory();

  proof.result("H", "NF", "H  = f(X [A1 A2] + c1)", saved.fc2.x.local(), h_slice);
  proof.result("Y", "NK", "Y  = H1 B1 + H2 B2 + c2", y.local(), all);
  proof.result("dX", "NK", "dX = dP1 A1' + dP2 A2'", dx.local(), all);
  proof.result("dA", "KF", "dA = [X' dP1, X' dP2]", block.fc1.da.local(), a_slice);
  proof.result("dc1", "1F", "dc1 = [sum dP1, sum dP2]", block.fc1.dc.local(), c1_slice);
  proof.result("dB", "FK", "dB = [H1' dY; H2' dY]", block.fc2.da.local(), b_slice);
  proof.result("dc2", "1K", "dc2 = sum dY", block.fc2.dc.local(), row);
  proof.baseline(unsplit(activation));
  const auto own = [=](int rank) { return part(f, rank, static_cast<int>(p)); };
  proof.mistake("Y", "Y equals rank {rank}'s own term plus c2: was it all-reduced?",
                [=](const auto& in, int rank) {
                  const Range r = own(rank);
                  const Tensor h = unsplit(activation)(in).at("H").column_range(r.begin, r.end);
                  return add_bias(matmul(h, in("B").row_range(r.begin, r.end)), in("c2"));
                });
  proof.mistake("Y", "Y holds the bias c2 p times: was it added before the sum?", [=](const auto& in, int) {
    return add_bias(unsplit(activation)(in).at("Y"), scale(in("c2"), static_cast<double>(p - 1)));
  });
  proof.mistake("Y", "Y holds the mean of the terms, not their sum.", [=](const auto& in, int) {
    return add_bias(scale(matmul(unsplit(activation)(in).at("H"), in("B")), 1.0 / static_cast<double>(p)),
                    in("c2"));
  });
  proof.mistake("dX", "dX equals rank {rank}'s own term: was it all-reduced?", [=](const auto& in, int rank) {
    const Range r = own(rank);
    const Tensor pre = add_bias(matmul(in("X"), in("A")), in("c1"));
    const Tensor dpre = mlp::activate_backward(matmul(in("dY"), t(in("B"))), pre, activation);
    return matmul(dpre.column_range(r.begin, r.end), t(in("A").column_range(r.begin, r.end)));
  });

  proof.expect_traffic("fwd", "all_reduce", "Y", 1, 2 * (p - 1) * n * k * e, format("2 (p-1) {} N K", e));
  proof.expect_traffic("bwd", "all_reduce", "dX", 1, 2 * (p - 1) * n * k * e, format("2 (p-1) {} N K", e));
  const std::string formula = format("{} ((2 K + 1) F/p + K)", e);
  proof.expect_memory(MemoryKind::weight, "A c1 B c2", s.weights(1) * e, s.weights(p) * e, formula);
  proof.expect_memory(MemoryKind::gradient, "dA dc1 dB dc2", s.weights(1) * e, s.weights(p) * e, formula);
  proof.expect_memory(MemoryKind::activation, "X dX Y dY P dP H", s.activations(1) * e, s.activations(p) * e,
                      format("{} N (4 K + 3 F/p)", e));
  prove_plain(proof, comm, s, x, dy, block);
}

}  // namespace tessera::mlp_block
