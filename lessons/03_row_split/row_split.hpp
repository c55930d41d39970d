// Y = X A + c with X cut by columns and A by rows:
//
//   [X1 X2] [A1; A2] + c = X1 A1 + X2 A2 + c
//
// Each rank multiplies its columns of X by its rows of A and gets a full-size term of Y; the terms are
// summed. The bias is added once, after the sum: before it, every rank would add c and the sum would hold c p
// times. In the backward dY is whole on every rank, and each rank computes its own columns of dX without the
// others: Megatron's reduce (g in Shoeybi et al. 2019, section 3) is an all-reduce in the forward and the
// identity in the backward.
//
// Shapes: N tokens, F = ffn, W = width, p ranks. Bytes are counted in elements, over all ranks together.
#pragma once

#include "comm/communicator.hpp"
#include "placement/placed_ops.hpp"

namespace tessera::row_split {

/// The layer by hand, with plain tensors and collectives.
struct ByHand {
  Tensor a, c;        // (F/p, W), (1, W)  this rank's rows of A, and the whole bias
  Tensor y;           // (N, W)
  Tensor dx, da, dc;  // (N, F/p), (F/p, W), (1, W)

  // begin by_hand
  // task 03.forward (function, 2 points, 10 min): sum the terms of all ranks, then add the bias. Shapes: x
  // (N, F/p), a (F/p, W), c (1, W) -> y (N, W). Hint: how often may c be added?
  void forward(const Tensor& x, Communicator& comm) {
    const Tensor term = matmul(x, a);          // (N, W)  X_i A_i, a term of X A
    const Tensor sum = comm.all_reduce(term);  // (N, W)  2(p-1) NW elements
    y = add_bias(sum, c);                      // after the sum: before it, c would count p times
  }
  // end task

  // task 03.backward (function, 2 points, 15 min): compute dX, dA and dc. Shapes: dy (N, W), x (N, F/p) -> dx
  // (N, F/p), da (F/p, W), dc (1, W). Hint: every rank has the whole dY.
  void backward(const Tensor& dy, const Tensor& x) {
    dx = matmul(dy, t(a));  // (N, F/p)  no bytes sent: no other rank used X_i
    da = matmul(t(x), dy);  // (F/p, W)  no bytes sent
    dc = sum_rows(dy);      // (1, W)    equal on all ranks, since c and dY are
  }
  // end task
  // end by_hand
};

// Now the same layer with the placement in the type. The product of Shard<1> and Shard<0> is Partial, and
// add_bias does not take a Partial: a program that adds c too early does not compile.

inline constexpr int code_line = __LINE__ + 4;
// begin typed
/// A linear layer whose weight is cut by rows and whose input is cut by columns. Lesson 04 puts it behind the
/// layer of lesson 02.
struct RowParallelLinear {
  Placed<Shard<0>> a;    // (F/p, W)
  Placed<Replicated> c;  // (1, W)
  Placed<Shard<0>> da;   // the gradients of a and c, summed over microbatches
  Placed<Replicated> dc;

  /// What the backward needs of one microbatch.
  struct Saved {
    Placed<Shard<1>> x;     // (N, F/p)
    Placed<Replicated> dy;  // (N, W)
  };

  RowParallelLinear(const Tensor& a_own, const Tensor& c_whole)
      : a(a_own), c(c_whole), da(zero_gradient(a)), dc(zero_gradient(c)) {}

  // task 03.typed_forward (line, 1 point, 5 min): compute Y, (N, F/p) -> (N, W). Hint: the product is
  // Partial; which collective must come before the bias?
  Placed<Replicated> forward(const Placed<Shard<1>>& x, Saved& saved, const TensorParallel& tp) const {
    saved.x = x;
    return add_bias(tp.all_reduce(matmul(x, a)), c);  // Partial -> Replicated: Megatron's reduce
  }
  // end task

  /// The same sum, of which each rank keeps its own tokens only: (p-1) NW elements, half of the all-reduce.
  // task 03.scattered (line, 1 point, 10 min): compute this rank's tokens of Y, (N, F/p) -> (N/p, W). Hint:
  // which collective adds the terms and cuts the sum?
  Placed<Shard<0>> forward_scattered(const Placed<Shard<1>>& x, Saved& saved,
                                     const TensorParallel& tp) const {
    saved.x = x;
    return add_bias(tp.reduce_scatter<0>(matmul(x, a)), c);  // Partial -> Shard<0>
  }
  // end task

  // task 03.typed_backward (line, 1 point, 10 min): compute dX, (N, W) -> (N, F/p). Hint: A is cut by rows,
  // so its transpose is cut by columns.
  Placed<Shard<1>> backward_input(const Placed<Replicated>& dy, Saved& saved) const {
    saved.dy = dy;
    return matmul(dy, t(a));  // Replicated x Shard<1> = Shard<1>  no bytes sent
  }
  // end task

  // task 03.typed_weight (line, 1 point, 10 min): add this microbatch's gradients to da and dc. Hint: X is
  // cut by columns, so its transpose is cut by rows.
  void backward_weight(const Saved& saved) const {
    add_matmul(da, t(saved.x), saved.dy);  // Shard<0> x Replicated = Shard<0>  no bytes sent
    add_sum_rows(dc, saved.dy);            // Replicated
  }
  // end task
};
// end typed

/// What one forward and backward pass gives.
struct Step {
  Placed<Replicated> y;  // (N, W)
  Placed<Shard<1>> dx;   // (N, F/p)
  RowParallelLinear::Saved saved;
};

/// Takes this rank's columns of X (N, F/p) forward and the whole dY (N, W) backward, and adds to the layer's
/// gradients. The ledger counts the bytes of each pass in its phase.
inline Step step(const RowParallelLinear& layer, const Placed<Shard<1>>& x, const Placed<Replicated>& dy,
                 const TensorParallel& tp) {
  Step pass;
  {
    const Phase phase = tp.comm().phase("fwd");
    pass.y = layer.forward(x, pass.saved, tp);  // Replicated  (N, W)  2(p-1) NW
  }
  const Phase phase = tp.comm().phase("bwd");
  pass.dx = layer.backward_input(dy, pass.saved);  // Shard<1>  (N, F/p)  no bytes sent
  layer.backward_weight(pass.saved);
  return pass;
}

/// The other way to take the sum: each rank keeps its own tokens of Y. In the backward the gradients of all
/// tokens are gathered first.
struct ScatteredStep {
  Placed<Shard<0>> y;   // (N/p, W)
  Placed<Shard<1>> dx;  // (N, F/p)
};

inline ScatteredStep step_scattered(const RowParallelLinear& layer, const Placed<Shard<1>>& x,
                                    const Placed<Replicated>& dy, const TensorParallel& tp) {
  RowParallelLinear::Saved saved;
  ScatteredStep pass;
  {
    const Phase phase = tp.comm().phase("fwd-scattered");
    pass.y = layer.forward_scattered(x, saved, tp);  // Shard<0>  (N/p, W)  (p-1) NW
  }
  const Phase phase = tp.comm().phase("bwd-scattered");
  const auto dy_all = tp.all_gather(tp.take_shard<0>(dy));  // Replicated  (N, W)  (p-1) NW
  pass.dx = layer.backward_input(dy_all, saved);            // Shard<1>    (N, F/p)
  return pass;
}

// task 03.cheapest (function, 3 points, 20 min): compute Y = X A B on every rank, and send as few bytes as
// you can: the counters decide. X is cut by columns and A by rows, as above, and B is whole. Shapes:
// x (N, F/p), a (F/p, W), b (W, M) -> (N, M). Hint: a term times B is a term. Of which matrix may the sum be
// taken?
inline Tensor cheapest(const Tensor& x, const Tensor& a, const Tensor& b, Communicator& comm) {
  const Tensor term = matmul(x, a);                                  // (N, W)  a term of X A
  if (a.cols() < b.cols()) return matmul(comm.all_reduce(term), b);  // (N, M)  2(p-1) NW
  return comm.all_reduce(matmul(term, b));                           // (N, M)  2(p-1) NM
}
// end task

}  // namespace tessera::row_split
