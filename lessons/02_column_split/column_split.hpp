// Y = X A + c with A and c cut by columns:
//
//   X [A1 A2] + [c1 c2] = [X A1 + c1, X A2 + c2]
//
// Each rank multiplies the whole X by its own columns of A and gets its own columns of Y. Backward, every
// rank has used the whole X, so every rank has a term of dX, and the terms are summed: Megatron's operator f
// (Shoeybi et al. 2019, section 3) is the identity forward and an all-reduce backward.
#pragma once

#include "comm/communicator.hpp"
#include "placement/placed_ops.hpp"

namespace tessera::column_split {

// By hand: plain tensors, views and collectives. N tokens, K = width, F = ffn, p ranks.

struct ByHand {
  Tensor a, c;        // (K, F/p), (1, F/p)  this rank's columns
  Tensor y;           // (N, F)
  Tensor dx, da, dc;  // (N, K), (K, F/p), (1, F/p)

  // begin by_hand
  // task 02.forward (line, 1 point, 10 min): this rank's columns of X A + c, then all columns. Shapes: x (N,
  // K), a (K, F/p), c (1, F/p) -> y (N, F). Hint: columns lie side by side along axis 1.
  void forward(const Tensor& x, Communicator& comm) {
    const Tensor y_own = add_bias(matmul(x, a), c);  // (N, F/p)  no bytes sent
    y = comm.all_gather(y_own, 1);                   // (N, F)    (p-1) NF elements over all ranks
  }
  // end task

  // task 02.backward (function, 3 points, 25 min): dX, dA, dc. Shapes: dy (N, F), x (N, K) -> dx (N, K), da
  // (K, F/p), dc (1, F/p). Hint: which columns of dY did this rank's Y feed, and who else used X?
  void backward(const Tensor& dy, const Tensor& x, Communicator& comm) {
    const Range own = part(dy.cols(), comm.rank(), comm.size());
    const Tensor dy_own =
        dy.column_range(own.begin, own.end);   // (N, F/p)  a view: this rank's Y fed these columns
    const Tensor term = matmul(dy_own, t(a));  // (N, K)    dY_i A_i^T, a term of dX
    dx = comm.all_reduce(term);                // (N, K)    2(p-1) NK: every rank used X
    da = matmul(t(x), dy_own);                 // (K, F/p)  no bytes sent: nobody else used A_i
    dc = sum_rows(dy_own);                     // (1, F/p)
  }
  // end task
  // end by_hand
};

// Typed: the same, with the placement in the type. The backward all-reduce is no longer a matter of memory:
// dY is Shard<1>, A^T is Shard<0>, and Shard<1> times Shard<0> is Partial.
// Until it is reduced, nothing else compiles.

inline constexpr int code_line = __LINE__ + 3;
// begin typed
/// A linear layer cut by columns. Lesson 04 stacks it on lesson 03's.
struct ColumnParallelLinear {
  Placed<Shard<1>> a, c;    // (K, F/p), (1, F/p)
  Placed<Shard<1>> da, dc;  // their gradients, summed over microbatches

  /// What the backward needs of one microbatch.
  struct Saved {
    Placed<Replicated> x;  // (N, K)
    Placed<Shard<1>> dy;   // (N, F/p)
  };

  ColumnParallelLinear(const Tensor& a_own, const Tensor& c_own)
      : a(a_own), c(c_own), da(zero_gradient(a)), dc(zero_gradient(c)) {}

  // task 02.typed_forward (line, 1 point, 5 min): (N, K) -> (N, F/p).
  // Hint: the types say what may be multiplied.
  Placed<Shard<1>> forward(const Placed<Replicated>& x, Saved& saved) const {
    saved.x = x;
    return add_bias(matmul(x, a), c);  // Shard<1>  no bytes sent
  }
  // end task

  // task 02.typed_backward (line, 1 point, 10 min): (N, F/p) -> (N, K). Hint: what does Shard<1> times
  // Shard<0> owe?
  Placed<Replicated> backward_input(const Placed<Shard<1>>& dy, Saved& saved,
                                    const TensorParallel& tp) const {
    saved.dy = dy;
    return tp.all_reduce(matmul(dy, t(a)));  // Partial -> Replicated: operator f
  }
  // end task

  // task 02.typed_weight (line, 1 point, 10 min): add to da and dc.
  // Hint: for Y = X A + c the gradient of A is X' dY.
  void backward_weight(const Saved& saved) const {
    add_matmul(da, t(saved.x), saved.dy);  // Replicated x Shard<1> = Shard<1>  no bytes sent
    add_sum_rows(dc, saved.dy);
  }
  // end task
};
// end typed

}  // namespace tessera::column_split
