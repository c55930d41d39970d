// The block-matrix identities of the course, about ten lines each: the placements say how the matrices are
// cut, the formula behind `whole` says what they must give.
// Run by the suite, and by ./tessera verify on any ranks.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "app/proof.hpp"
#include "placement/placed_ops.hpp"

namespace tessera::identities {

struct MatrixSizes {
  std::int64_t n, k, m;  // X (n, k), A (k, m); the ranks divide each
  int index = 0;         // in a sweep of sizes
};

/// A matrix named `name`, placed as P.
template <class P>
Placed<P> placed(Proof& proof, Communicator& comm, const std::string& name, const std::string& axes,
                 std::int64_t rows, std::int64_t cols) {
  return Placed<P>(proof.input(name, axes, slice_of<P>(rows, cols, comm)));
}

template <class P>
void equals(Proof& proof, Communicator& comm, const std::string& identity, const Placed<P>& y,
            std::int64_t rows, std::int64_t cols) {
  proof.result("Y", "??", identity, y.local(), slice_of<P>(rows, cols, comm));
}

inline auto product_of_whole = [](const auto& in) {
  const auto x = in("X");
  return Named<std::decay_t<decltype(x)>>{{"Y", matmul(x, in("A"))}};
};

// X [A1 A2] = [X A1, X A2]
inline void columns(Proof& proof, Communicator& comm, const MatrixSizes& s) {
  const auto x = placed<Replicated>(proof, comm, "X", "NK", s.n, s.k);
  const auto a = placed<Shard<1>>(proof, comm, "A", "KM", s.k, s.m);
  equals(proof, comm, "X [A1 A2] = [X A1, X A2]", matmul(x, a), s.n, s.m);
  proof.baseline(product_of_whole);
}

// [X1; X2] A = [X1 A; X2 A]
inline void rows(Proof& proof, Communicator& comm, const MatrixSizes& s) {
  const auto x = placed<Shard<0>>(proof, comm, "X", "NK", s.n, s.k);
  const auto a = placed<Replicated>(proof, comm, "A", "KM", s.k, s.m);
  equals(proof, comm, "[X1; X2] A = [X1 A; X2 A]", matmul(x, a), s.n, s.m);
  proof.baseline(product_of_whole);
}

// [X1 X2] [A1; A2] = X1 A1 + X2 A2
inline void sum(Proof& proof, Communicator& comm, const MatrixSizes& s) {
  const auto x = placed<Shard<1>>(proof, comm, "X", "NK", s.n, s.k);
  const auto a = placed<Shard<0>>(proof, comm, "A", "KM", s.k, s.m);
  const TensorParallel tp(comm);
  const auto term = matmul(x, a);  // Partial
  equals(proof, comm, "[X1 X2] [A1; A2] = X1 A1 + X2 A2", tp.all_reduce(term), s.n, s.m);
  equals(proof, comm, "  its rows, by reduce-scatter", tp.reduce_scatter<0>(term), s.n, s.m);
  equals(proof, comm, "  its columns, by reduce-scatter", tp.reduce_scatter<1>(term), s.n, s.m);
  proof.baseline(product_of_whole);
  const std::int64_t p = comm.size(), bytes = s.n * s.m * proof.element_bytes();
  proof.expect_traffic("-", "all_reduce", "Y", 1, 2 * (p - 1) * bytes, "2 (p-1) S");
  proof.expect_traffic("-", "reduce_scatter", "Y", 2, 2 * (p - 1) * bytes, "2 (p-1) S");
}

// A^T read by t(): (X^T)^T... [A1 A2]^T = [A1^T; A2^T],
// so X' times a product of transposes keeps the same rules.
inline void transposes(Proof& proof, Communicator& comm, const MatrixSizes& s) {
  const auto x = placed<Shard<0>>(proof, comm, "X", "KN", s.k, s.n);  // t(x) is Shard<1>
  const auto a = placed<Shard<0>>(proof, comm, "A", "KM", s.k, s.m);
  const TensorParallel tp(comm);
  equals(proof, comm, "[X1; X2]' [A1; A2] = X1' A1 + X2' A2", tp.all_reduce(matmul(t(x), a)), s.n, s.m);
  proof.baseline([](const auto& in) {
    const auto whole_x = in("X");
    return Named<std::decay_t<decltype(whole_x)>>{{"Y", matmul(t(whole_x), in("A"))}};
  });
  proof.expect_traffic("-", "all_reduce", "Y", 1, 2 * (comm.size() - 1) * s.n * s.m * proof.wide_bytes(),
                       "2 (p-1) S");
}

// sum of the rows of [X1; X2] = sum of the rows of X1 + sum of the rows of X2
inline void row_sums(Proof& proof, Communicator& comm, const MatrixSizes& s) {
  const auto x = placed<Shard<0>>(proof, comm, "X", "NK", s.n, s.k);
  const DataParallel dp(comm);
  const Placed<Replicated, Shard<0>> tokens(x.local());  // the tokens are cut over dp
  const Placed<Replicated, Partial> term = sum_rows(tokens);
  proof.result("Y", "1K", "sum [X1; X2] = sum X1 + sum X2", dp.all_reduce(term).local(),
               Slice::whole(1, s.k));
  proof.baseline([](const auto& in) {
    const auto whole_x = in("X");
    return Named<std::decay_t<decltype(whole_x)>>{{"Y", sum_rows(whole_x)}};
  });
  proof.expect_traffic("-", "all_reduce", "Y", 1, 2 * (comm.size() - 1) * s.k * proof.wide_bytes(),
                       "2 (p-1) S");
}

// f([X1 X2]) = [f(X1), f(X2)], bias and all, for an element-wise f
inline void element_wise(Proof& proof, Communicator& comm, const MatrixSizes& s) {
  const auto x = placed<Shard<1>>(proof, comm, "X", "NK", s.n, s.k);
  const auto c = placed<Shard<1>>(proof, comm, "c", "1K", 1, s.k);
  equals(proof, comm, "f([X1 X2] + [c1 c2]) = [f(X1 + c1), f(X2 + c2)]", relu(add_bias(x, c)), s.n, s.k);
  proof.baseline([](const auto& in) {
    const auto whole_x = in("X");
    return Named<std::decay_t<decltype(whole_x)>>{{"Y", relu(add_bias(whole_x, in("c")))}};
  });
}

struct Identity {
  std::string name;
  std::function<void(Proof&, Communicator&, const MatrixSizes&)> prove;
};
inline const std::vector<Identity>& all() {
  static const std::vector<Identity> identities = {{"columns", columns},   {"rows", rows},
                                                   {"sum", sum},           {"transposes", transposes},
                                                   {"row sums", row_sums}, {"element-wise", element_wise}};
  return identities;
}

}  // namespace tessera::identities
