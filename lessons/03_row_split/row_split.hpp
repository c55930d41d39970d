// Y = X A + c with X cut by columns and A by rows:
//
//   [X1 X2] [A1; A2] + c = X1 A1 + X2 A2 + c
//
// Each rank multiplies its columns of X by its rows of A and gets a full-size term of Y; the terms are
// summed. The bias is added once, after the sum: before it, every rank would add c and the sum would hold it
// p times. Backward, dY is whole on every rank and each finds its own columns of dX alone: Megatron's
// operator g (Shoeybi et al. 2019, section 3) is an all-reduce forward and the identity backward.
#pragma once

#include "comm/communicator.hpp"
#include "placement/placed_ops.hpp"

namespace tessera::row_split {

// By hand: plain tensors and collectives. N tokens, F = ffn, K = width, p ranks.

struct ByHand {
  Tensor a, c;        // (F/p, K), (1, K)  this rank's rows; the whole bias
  Tensor y;           // (N, K)
  Tensor dx, da, dc;  // (N, F/p), (F/p, K), (1, K)

  // begin by_hand
  // task 03.forward (function, 2 points, 10 min): the sum of all ranks' terms, then the bias. Shapes: x (N,
  // F/p), a (F/p, K), c (1, K) -> y (N, K). Hint: how often may c be added?
  void forward(const Tensor& x, Communicator& comm) {
    const Tensor term = matmul(x, a);          // (N, K)  X_i A_i, a term of X A
    const Tensor sum = comm.all_reduce(term);  // (N, K)  2(p-1) NK elements over all ranks
    y = add_bias(sum, c);                      // after the sum: before it, c would count p times
  }
  // end task

  // task 03.backward (function, 2 points, 15 min): dX, dA, dc. Shapes: dy (N, K), x (N, F/p) -> dx (N, F/p),
  // da (F/p, K), dc (1, K). Hint: every rank knows the whole dY.
  void backward(const Tensor& dy, const Tensor& x) {
    dx = matmul(dy, t(a));  // (N, F/p)  no bytes sent: only this rank has used X_i
    da = matmul(t(x), dy);  // (F/p, K)  no bytes sent
    dc = sum_rows(dy);      // (1, K)    equal on all ranks, which all have the same c and dY
  }
  // end task
  // end by_hand
};

// Typed. Shard<1> times Shard<0> is Partial, and add_bias takes no Partial:
// adding c too early does not compile.

inline constexpr int code_line = __LINE__ + 3;
// begin typed
/// A linear layer cut by rows, its input by columns. Lesson 04 stacks it on lesson 02's.
struct RowParallelLinear {
  Placed<Shard<0>> a;    // (F/p, K)
  Placed<Replicated> c;  // (1, K)
  Placed<Shard<0>> da;   // their gradients, summed over microbatches
  Placed<Replicated> dc;

  struct Saved {
    Placed<Shard<1>> x;     // (N, F/p)
    Placed<Replicated> dy;  // (N, K)
  };

  RowParallelLinear(const Tensor& a_own, const Tensor& c_whole)
      : a(a_own), c(c_whole), da(zero_gradient(a)), dc(zero_gradient(c)) {}

  // task 03.typed_forward (line, 1 point, 5 min): (N, F/p) -> (N, K). Hint: what does the product owe before
  // it takes a bias?
  Placed<Replicated> forward(const Placed<Shard<1>>& x, Saved& saved, const TensorParallel& tp) const {
    saved.x = x;
    return add_bias(tp.all_reduce(matmul(x, a)), c);  // Partial -> Replicated: operator g
  }
  // end task

  /// The same sum, of which each rank keeps its tokens only: (p-1) NK elements, half of the all-reduce.
  // task 03.scattered (line, 1 point, 10 min): (N, F/p) -> (N/p, K). Hint: which collective adds and cuts?
  Placed<Shard<0>> forward_scattered(const Placed<Shard<1>>& x, Saved& saved,
                                     const TensorParallel& tp) const {
    saved.x = x;
    return add_bias(tp.reduce_scatter<0>(matmul(x, a)), c);  // Partial -> Shard<0>
  }
  // end task

  // task 03.typed_backward (line, 1 point, 10 min): (N, K) -> (N, F/p). Hint: Replicated times Shard<1>.
  Placed<Shard<1>> backward_input(const Placed<Replicated>& dy, Saved& saved) const {
    saved.dy = dy;
    return matmul(dy, t(a));  // Replicated x Shard<1> = Shard<1>  no bytes sent
  }
  // end task

  // task 03.typed_weight (line, 1 point, 10 min): add to da and dc. Hint: X is cut by columns, so X' by rows.
  void backward_weight(const Saved& saved) const {
    add_matmul(da, t(saved.x), saved.dy);  // Shard<0> x Replicated = Shard<0>  no bytes sent
    add_sum_rows(dc, saved.dy);            // Replicated
  }
  // end task
};
// end typed

}  // namespace tessera::row_split
