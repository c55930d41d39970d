// The block-matrix identities of the course, about ten lines each: the placements say how the matrices are
// cut, the baseline says what they must give. The suite runs them, and ./tessera verify on any number of
// ranks.
#pragma once

#include <string>

#include "app/proof.hpp"
#include "placement/placed_ops.hpp"

namespace tessera::identities {

struct MatrixSizes {
  std::int64_t n, k, m;  // X (n, k), A (k, m); the ranks divide each
  int index = 0;         // in a sweep of sizes
};

inline auto product_of_whole = [](const auto& in) {
  const auto x = in("X");
  return Named<std::decay_t<decltype(x)>>{{"Y", matmul(x, in("A"))}};
};

// X [A1 A2] = [X A1, X A2]
inline void columns(Proof& proof, Communicator&) {
  const auto x = proof.input<Replicated>("X", "NK");
  const auto a = proof.input<Shard<1>>("A", "KM");
  proof.result("Y", "NM", "X [A1 A2] = [X A1, X A2]", matmul(x, a));
  proof.baseline(product_of_whole);
}

// [X1; X2] A = [X1 A; X2 A]
inline void rows(Proof& proof, Communicator&) {
  const auto x = proof.input<Shard<0>>("X", "NK");
  const auto a = proof.input<Replicated>("A", "KM");
  proof.result("Y", "NM", "[X1; X2] A = [X1 A; X2 A]", matmul(x, a));
  proof.baseline(product_of_whole);
}

/// The bytes that the ranks send for one sum of a whole matrix of these axes.
inline std::int64_t bytes_of_sum(const Proof& proof, const std::string& axes, std::int64_t element_bytes) {
  const Slice whole = proof.slice<Replicated>(axes);
  return 2 * (proof.ranks() - 1) * whole.whole_rows * whole.whole_cols * element_bytes;
}

// [X1 X2] [A1; A2] = X1 A1 + X2 A2
inline void sum(Proof& proof, Communicator& comm) {
  const auto x = proof.input<Shard<1>>("X", "NK");
  const auto a = proof.input<Shard<0>>("A", "KM");
  const TensorParallel tp(comm);
  const auto term = matmul(x, a);  // Partial
  proof.result("Y", "NM", "[X1 X2] [A1; A2] = X1 A1 + X2 A2", tp.all_reduce(term));
  proof.result("Y", "NM", "  its rows, by reduce-scatter", tp.reduce_scatter<0>(term));
  proof.result("Y", "NM", "  its columns, by reduce-scatter", tp.reduce_scatter<1>(term));
  proof.baseline(product_of_whole);
  proof.expect_traffic("-", "all_reduce", "Y", 1, bytes_of_sum(proof, "NM", proof.element_bytes()),
                       "2 (p-1) S");
  proof.expect_traffic("-", "reduce_scatter", "Y", 2, bytes_of_sum(proof, "NM", proof.element_bytes()),
                       "2 (p-1) S");
}

// [X1; X2]' [A1; A2] = X1' A1 + X2' A2: the transpose of Shard<0> is Shard<1>, so this is the sum above.
inline void transposes(Proof& proof, Communicator& comm) {
  const auto x = proof.input<Shard<0>>("X", "KN");  // t(x) is Shard<1>
  const auto a = proof.input<Shard<0>>("A", "KM");
  const auto y = TensorParallel(comm).all_reduce(matmul(t(x), a));
  proof.result("Y", "NM", "[X1; X2]' [A1; A2] = X1' A1 + X2' A2", y);
  proof.baseline([](const auto& in) {
    const auto whole_x = in("X");
    return Named<std::decay_t<decltype(whole_x)>>{{"Y", matmul(t(whole_x), in("A"))}};
  });
  proof.expect_traffic("-", "all_reduce", "Y", 1, bytes_of_sum(proof, "NM", proof.wide_bytes()), "2 (p-1) S");
}

// sum of the rows of [X1; X2] = sum of the rows of X1 + sum of the rows of X2
inline void row_sums(Proof& proof, Communicator& comm) {
  const Placed<Replicated, Shard<0>> x(
      proof.input<Shard<0>>("X", "NK").local());  // the tokens are cut over dp
  const Placed<Replicated, Partial> term = sum_rows(x);
  const Placed<Replicated> y(DataParallel(comm).all_reduce(term).local());
  proof.result("Y", "1K", "sum [X1; X2] = sum X1 + sum X2", y);
  proof.baseline([](const auto& in) {
    const auto whole_x = in("X");
    return Named<std::decay_t<decltype(whole_x)>>{{"Y", sum_rows(whole_x)}};
  });
  proof.expect_traffic("-", "all_reduce", "Y", 1, bytes_of_sum(proof, "1K", proof.wide_bytes()), "2 (p-1) S");
}

// f([X1 X2]) = [f(X1), f(X2)], bias and all, for an element-wise f
inline void element_wise(Proof& proof, Communicator&) {
  const auto x = proof.input<Shard<1>>("X", "NK");
  const auto c = proof.input<Shard<1>>("c", "1K");
  proof.result("Y", "NK", "f([X1 X2] + [c1 c2]) = [f(X1 + c1), f(X2 + c2)]", relu(add_bias(x, c)));
  proof.baseline([](const auto& in) {
    const auto whole_x = in("X");
    return Named<std::decay_t<decltype(whole_x)>>{{"Y", relu(add_bias(whole_x, in("c")))}};
  });
}

struct Identity {
  const char* name;
  void (*claim)(Proof&, Communicator&);
  void prove(Proof& proof, Communicator& comm, const MatrixSizes& s) const {
    proof.axes({{'N', s.n}, {'K', s.k}, {'M', s.m}});
    claim(proof, comm);
  }
};
inline constexpr Identity all[] = {{"columns", columns},   {"rows", rows},
                                   {"sum", sum},           {"transposes", transposes},
                                   {"row sums", row_sums}, {"element-wise", element_wise}};

}  // namespace tessera::identities
