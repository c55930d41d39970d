// Y = X A + c with A and c cut by columns:
//
//   X [A1 A2] + [c1 c2] = [X A1 + c1, X A2 + c2]
//
// Each rank multiplies the whole X by its own columns of A and gets its own columns of Y. Every rank has used
// the whole X, so in the backward every rank has a term of dX, and the terms are summed: Megatron's copy (f
// in Shoeybi et al. 2019, section 3) is the identity in the forward and an all-reduce in the backward.
//
// Shapes: N tokens, W = width, F = ffn, p ranks. Bytes are counted in elements, over all ranks together.
#pragma once

#include "comm/communicator.hpp"
#include "placement/placed_ops.hpp"

namespace tessera::column_split {

/// The layer by hand, with plain tensors, views and collectives. Only the programmer's care keeps the
/// sums right.
struct ByHand {
  Tensor a, c;        // (W, F/p), (1, F/p)  this rank's columns
  Tensor y;           // (N, F)
  Tensor dx, da, dc;  // (N, W), (W, F/p), (1, F/p)

  // begin by_hand
  // task 02.forward (line, 1 point, 10 min): compute this rank's columns of X A + c, then gather all columns.
  // Shapes: x (N, W), a (W, F/p), c (1, F/p) -> y (N, F). Hint: columns lie side by side along axis 1.
  void forward(const Tensor& x, Communicator& comm) {
    const Tensor y_own = add_bias(matmul(x, a), c);  // (N, F/p)  no bytes sent
    y = comm.all_gather(y_own, 1);                   // (N, F)    (p-1) NF elements
  }
  // end task

  // task 02.backward (function, 3 points, 25 min): compute dX, dA and dc.
  // Shapes: dy (N, F), x (N, W) -> dx (N, W), da (W, F/p), dc (1, F/p). Hint:
  // which columns of dY belong to this rank's Y, and which other ranks used X?
  void backward(const Tensor& dy, const Tensor& x, Communicator& comm) {
    const Range own = part(dy.cols(), comm.rank(), comm.size());
    const Tensor dy_own =
        dy.column_range(own.begin, own.end);   // (N, F/p)  a view of the columns that this rank computed
    const Tensor term = matmul(dy_own, t(a));  // (N, W)    dY_i A_i^T, a term of dX
    dx = comm.all_reduce(term);                // (N, W)    2(p-1) NW elements, since every rank used X
    da = matmul(t(x), dy_own);                 // (W, F/p)  no bytes sent: no other rank used A_i
    dc = sum_rows(dy_own);                     // (1, F/p)
  }
  // end task
  // end by_hand
};

// Now the same layer with the placement in the type. The programmer can no longer forget the all-reduce of
// the backward: dY is Shard<1>, A^T is Shard<0>, and the product of Shard<1> and Shard<0> is Partial.
// Functions that need the whole dX do not compile before it is reduced.

inline constexpr int code_line = __LINE__ + 3;
// begin typed
/// A linear layer whose weight and bias are cut by columns. Lesson 04 puts it before the layer of lesson 03.
struct ColumnParallelLinear {
  Placed<Shard<1>> a, c;    // (W, F/p), (1, F/p)
  Placed<Shard<1>> da, dc;  // the gradients of a and c, summed over microbatches

  /// What the backward needs of one microbatch.
  struct Saved {
    Placed<Replicated> x;  // (N, W)
    Placed<Shard<1>> dy;   // (N, F/p)
  };

  ColumnParallelLinear(const Tensor& a_own, const Tensor& c_own)
      : a(a_own), c(c_own), da(zero_gradient(a)), dc(zero_gradient(c)) {}

  // task 02.typed_forward (line, 1 point, 5 min): compute this rank's columns, (N, W) -> (N, F/p).
  // Hint: the types say what may be multiplied.
  Placed<Shard<1>> forward(const Placed<Replicated>& x, Saved& saved) const {
    saved.x = x;
    return add_bias(matmul(x, a), c);  // Shard<1>  no bytes sent
  }
  // end task

  // task 02.typed_backward (line, 1 point, 10 min): compute dX, (N, F/p) -> (N, W). Hint: what is the product
  // of Shard<1> and Shard<0>, and which collective makes it Replicated?
  Placed<Replicated> backward_input(const Placed<Shard<1>>& dy, Saved& saved,
                                    const TensorParallel& tp) const {
    saved.dy = dy;
    return tp.all_reduce(matmul(dy, t(a)));  // Partial -> Replicated: Megatron's copy
  }
  // end task

  // task 02.typed_weight (line, 1 point, 10 min): add this microbatch's gradients to da and dc.
  // Hint: for Y = X A + c the gradient of A is X' dY.
  void backward_weight(const Saved& saved) const {
    add_matmul(da, t(saved.x), saved.dy);  // Replicated x Shard<1> = Shard<1>  no bytes sent
    add_sum_rows(dc, saved.dy);
  }
  // end task
};
// end typed

/// What one forward and backward pass gives.
struct Step {
  Placed<Replicated> y, dx;  // (N, F), (N, W)
  ColumnParallelLinear::Saved saved;
};

/// Takes X (N, W) forward and dY (N, F) backward, both whole on every rank, and adds to the layer's
/// gradients. The ledger counts the bytes of each pass in its phase.
inline Step step(const ColumnParallelLinear& layer, const Placed<Replicated>& x, const Placed<Replicated>& dy,
                 const TensorParallel& tp) {
  Step pass;
  {
    const Phase phase = tp.comm().phase("fwd");
    pass.y = tp.all_gather(layer.forward(x, pass.saved));  // Shard<1> -> Replicated  (N, F)  (p-1) NF
  }
  const Phase phase = tp.comm().phase("bwd");
  const auto dy_own = tp.take_shard<1>(dy);                // Shard<1>    (N, F/p)  no bytes sent
  pass.dx = layer.backward_input(dy_own, pass.saved, tp);  // Replicated  (N, W)    2(p-1) NW
  layer.backward_weight(pass.saved);
  return pass;
}

// task 02.cheapest (function, 3 points, 20 min): compute the whole Y = X A on every rank, and send as few
// bytes as you can: the counters decide. A is cut by columns. Shapes: x (N, W), a (W, F/p) -> (N, F). Hint:
// what can be gathered, before the product or after it?
inline Tensor cheapest(const Tensor& x, const Tensor& a, Communicator& comm) {
  if (x.rows() < x.cols()) return comm.all_gather(matmul(x, a), 1);  // (N, F)  (p-1) NF
  return matmul(x, comm.all_gather(a, 1));                           // (N, F)  (p-1) WF: A is the smaller one
}
// end task

}  // namespace tessera::column_split
