// Data parallelism: every rank holds the whole model and its own rows of the batch.
//
//   [X1; X2] A = [X1 A; X2 A]                        forward, nothing is sent
//   dA = [X1; X2]' [dY1; dY2] = X1' dY1 + X2' dY2    each rank has a term of the gradient
//
// So the gradients, and nothing else, are summed: Psi numbers a step for Psi weights. The loss is the mean
// over the global number of tokens, and dY already contains this division. The sum is therefore plain:
// nothing is divided by the number of ranks, and the ranks may hold different numbers of rows.
#pragma once

#include "comm/communicator.hpp"
#include "placement/placed_ops.hpp"

namespace tessera::data_parallel {

/// The rows of a rank out of `size`, in parts that differ by one unit at most: 10 rows over 4 ranks are 2, 3,
/// 2 and 3. The cuts lie between units of `unit` rows, such as sequences; `unit` must divide `size`.
inline Range own_rows(std::int64_t size, int rank, int ranks, std::int64_t unit = 1) {
  const std::int64_t units = size / unit;
  return {units * rank / ranks * unit, units * (rank + 1) / ranks * unit};
}

// By hand: N_r of N rows on rank r, A and c whole everywhere.
struct ByHand {
  Tensor a, c;           // (W, F), (1, F)
  Tensor y, dx, da, dc;  // (N_r, F), (N_r, W), (W, F), (1, F)

  // begin by_hand
  // task 07.forward (line, 1 point, 5 min): this rank's rows of X A + c. Hint: whose rows does a row of Y
  // need?
  void forward(const Tensor& x) {
    y = add_bias(matmul(x, a), c);  // (N_r, F)  no bytes sent
  }
  // end task

  // task 07.backward (function, 2 points, 15 min): dX, dA, dc. Shapes: dy (N_r, F), x (N_r, W). Hint: which
  // of the three did every rank's rows use?
  void backward(const Tensor& dy, const Tensor& x, Communicator& comm) {
    dx = matmul(dy, t(a));                   // (N_r, W)  no bytes sent
    da = comm.all_reduce(matmul(t(x), dy));  // (W, F)    2(p-1) WF: a sum over all rows
    dc = comm.all_reduce(sum_rows(dy));      // (1, F)    2(p-1) F
  }
  // end task
  // end by_hand

  // task 07.overlapped (function, 3 points, 25 min): the same, while the sums of dA and dc are under way:
  // each must have begun before dX is there, and be waited for after it. Shapes: as 07.backward. Hint:
  // Communicator::iall_reduce.
  void backward_overlapped(const Tensor& dy, const Tensor& x, Communicator& comm) {
    da = matmul(t(x), dy), dc = sum_rows(dy);
    Request first = comm.iall_reduce(da), second = comm.iall_reduce(dc);  // the results replace da and dc
    dx = matmul(dy, t(a));                                                // (N_r, W)  hides both sums
    first.wait(), second.wait();
  }
  // end task
};

// Typed: X is Shard<0> on the axis dp. X' is Shard<1>, dY is Shard<0>, and Shard<1> times Shard<0> is
// Partial: the type says that the gradient is owed a sum, just as it did for dX in lesson 02.
using Rows = Placed<Replicated, Shard<0>>;
using Owed = Placed<Replicated, Partial>;

inline constexpr int code_line = __LINE__ + 2;
// begin typed
struct Linear {
  Placed<Replicated> a, c;            // (W, F), (1, F)  whole on every rank
  Owed da{zero_gradient(a).local()};  // (W, F)  this rank's term, until finish
  Owed dc{zero_gradient(c).local()};

  // task 07.typed (design, 3 points, 30 min): all four. Hint: what do X' (Shard<1> on dp) and dY (Shard<0>)
  // make?
  Rows forward(const Rows& x) const { return add_bias(matmul(x, a), c); }  // Shard<0> on dp
  Rows backward_input(const Rows& dy) const { return matmul(dy, t(a)); }   // Shard<0> on dp
  void backward_weight(const Rows& x, const Rows& dy) const {
    add_matmul(da, t(x), dy);  // Shard<1> x Shard<0> = Partial on dp
    add_sum_rows(dc, dy);      // Shard<0> -> Partial on dp
  }
  /// The gradients as an optimiser may use them.
  std::pair<Placed<Replicated>, Placed<Replicated>> finish(const DataParallel& dp) const {
    return {dp.all_reduce(da), dp.all_reduce(dc)};
  }
  // end task
};
// end typed

}  // namespace tessera::data_parallel
