// The MLP of a transformer, Y = f(X A + c1) B + c2 with f = gelu or relu, cut as Megatron cuts it (Shoeybi et
// al. 2019, section 3, figure 3a): A by columns, B by rows. The output of the first layer is cut as the
// second needs its input, and f works on each column separately, so that nothing is sent between the two:
//
//   Y = f(X A1 + c1_1) B1 + f(X A2 + c1_2) B2 + c2     one all-reduce in the forward, one in the backward
//
// Shapes: N tokens, W = width, F = ffn, p ranks. Bytes are counted in elements, over all ranks together.
#pragma once

#include "01_mlp/mlp.hpp"
#include "02_column_split/column_split.hpp"
#include "03_row_split/row_split.hpp"

namespace tessera::mlp_block {

using mlp::Activation;

/// The layers of lessons 02 and 03, and the placement of what they give. Lesson 09 has other ones.
struct AllReduced {
  using Column = column_split::ColumnParallelLinear;
  using Row = row_split::RowParallelLinear;
  using Out = Replicated;
};

inline constexpr int code_line = __LINE__ + 3;
// begin block
/// A layer cut by columns, f, and a layer cut by rows, with one all-reduce at the end of each pass.
template <class Layers = AllReduced>
struct ParallelMlpOf {
  typename Layers::Column fc1;  // A (W, F/p), c1 (1, F/p)
  typename Layers::Row fc2;     // B (F/p, W), c2 (1, W)
  Activation f;
  using Out = Placed<typename Layers::Out>;  // Replicated, since both layers end with an all-reduce

  ParallelMlpOf(typename Layers::Column a, typename Layers::Row b, Activation f_ = Activation::gelu)
      : fc1(std::move(a)), fc2(std::move(b)), f(f_) {}

  struct Saved {
    typename Layers::Column::Saved fc1;
    typename Layers::Row::Saved fc2;  // fc2.x is H, (N, F/p)
    Placed<Shard<1>> pre;             // (N, F/p)  X A + c1: the slope of f is taken here
    Placed<Replicated>& x() { return fc1.x; }
  };
  const typename Layers::Row& last() const { return fc2; }

  // task 04.forward (function, 2 points, 15 min): compute Y, (N, W) -> (N, W).
  // Hint: it takes three lines, and only the last one communicates.
  Out forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel& tp) const {
    saved.pre = fc1.forward(x, saved.fc1);       // Shard<1>    (N, F/p)  no bytes sent
    const auto h = mlp::activate(saved.pre, f);  // Shard<1>    (N, F/p)  f works on each column separately
    return fc2.forward(h, saved.fc2, tp);        // Replicated  (N, W)    the only all-reduce
  }
  // end task

  // task 04.backward (function, 2 points, 15 min): compute dX,
  // (N, W) -> (N, W). Hint: it is the mirror image of forward.
  Out backward_input(const Placed<Replicated>& dy, Saved& saved, const TensorParallel& tp) const {
    const auto dh = fc2.backward_input(dy, saved.fc2);           // Shard<1>    (N, F/p)  no bytes sent
    const auto dpre = mlp::activate_backward(dh, saved.pre, f);  // Shard<1>    (N, F/p)
    return fc1.backward_input(dpre, saved.fc1, tp);              // Replicated  (N, W)    the only all-reduce
  }
  // end task

  void backward_weight(const Saved& saved) const {
    fc1.backward_weight(saved.fc1);
    fc2.backward_weight(saved.fc2);
  }
};
using ParallelMlp = ParallelMlpOf<>;
// end block

/// The block with relu, which keeps one matrix less for its backward.
struct LeanMlp {
  column_split::ColumnParallelLinear fc1;  // A (W, F/p), c1 (1, F/p)
  row_split::RowParallelLinear fc2;        // B (F/p, W), c2 (1, W)
  struct Saved {
    column_split::ColumnParallelLinear::Saved fc1;
    row_split::RowParallelLinear::Saved fc2;
  };

  // task 04.lean (function, 3 points, 25 min): both passes with relu, (N, W) -> (N, W), which keep X and H
  // alone: what a rank holds after the forward is counted. Hint: where U > 0, what is H?
  Placed<Replicated> forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel& tp) const {
    return fc2.forward(relu(fc1.forward(x, saved.fc1)), saved.fc2, tp);  // (N, W)  H (N, F/p) is in saved.fc2
  }
  Placed<Replicated> backward_input(const Placed<Replicated>& dy, Saved& saved,
                                    const TensorParallel& tp) const {
    const auto dh = fc2.backward_input(dy, saved.fc2);                         // (N, F/p)
    return fc1.backward_input(relu_backward(dh, saved.fc2.x), saved.fc1, tp);  // (N, W)  H > 0 where U > 0
  }
  // end task
};

// begin plain
/// The plain way cuts both matrices by columns and gathers after each. Its results are right, and it sends
/// more bytes.
struct AllGatherMlp {
  column_split::ColumnParallelLinear fc1, fc2;  // A (W, F/p), B (F, W/p)
  Activation f = Activation::gelu;

  struct Saved {
    column_split::ColumnParallelLinear::Saved fc1, fc2;
    Placed<Shard<1>> pre;
  };

  // task 04.plain (design, 5 points, 60 min): write all three passes, (N, W) -> (N, W). Hint: gather H, then
  // Y. In the backward a rank needs its own columns of dH only, so which collective takes the place of an
  // all-reduce? Send no more bytes than the page of lesson 04 counts.
  Placed<Replicated> forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel& tp) const {
    saved.pre = fc1.forward(x, saved.fc1);                      // Shard<1>    (N, F/p)
    const auto h = tp.all_gather(mlp::activate(saved.pre, f));  // Replicated  (N, F)    (p-1) NF
    return tp.all_gather(fc2.forward(h, saved.fc2));            // Replicated  (N, W)    (p-1) NW
  }

  Placed<Replicated> backward_input(const Placed<Replicated>& dy, Saved& saved,
                                    const TensorParallel& tp) const {
    saved.fc2.dy = tp.take_shard<1>(dy);  // Shard<1>    (N, W/p)  no bytes sent
    // dH is a sum over the ranks, and each rank needs only its own columns of it: half of an all-reduce.
    const auto dh = tp.reduce_scatter<1>(matmul(saved.fc2.dy, t(fc2.a)));  // Shard<1>  (N, F/p)  (p-1) NF
    const auto dpre = mlp::activate_backward(dh, saved.pre, f);            // Shard<1>    (N, F/p)
    return fc1.backward_input(dpre, saved.fc1, tp);                        // Replicated  (N, W)    2(p-1) NW
  }

  void backward_weight(const Saved& saved) const {
    fc1.backward_weight(saved.fc1);  // dA_i = X' dU_i, the rank's own columns
    fc2.backward_weight(saved.fc2);  // dB_i = H' dY_i
  }
  // end task
};
// end plain

/// For the plain way X is on rank 0 alone at first. Rank 0 sends its X (N, W) to the others, (p-1) NW.
inline Placed<Replicated> broadcast_x(const Placed<Replicated>& x, const TensorParallel& tp) {
  const Phase phase = tp.comm().phase("plain-fwd");
  const Placed<Replicated> received(tp.rank() == 0 ? x.local() : empty_like(x.local()));
  tp.comm().broadcast(received.local(), 0);
  return received;
}

/// What one forward and backward pass of a layer gives.
template <class Layer>
struct Step {
  Placed<Replicated> y, dx;  // (N, W), (N, W)
  typename Layer::Saved saved;
};

/// Takes X (N, W) forward and dY (N, W) backward, both whole on every rank, and adds to the layer's
/// gradients. The ledger counts the bytes of each pass in the phase `way` + "fwd" or "bwd".
template <class Layer>
Step<Layer> step(const Layer& layer, const Placed<Replicated>& x, const Placed<Replicated>& dy,
                 const TensorParallel& tp, const std::string& way = "") {
  Step<Layer> pass;
  {
    const Phase phase = tp.comm().phase(way + "fwd");
    pass.y = layer.forward(x, pass.saved, tp);
  }
  const Phase phase = tp.comm().phase(way + "bwd");
  pass.dx = layer.backward_input(dy, pass.saved, tp);
  layer.backward_weight(pass.saved);
  return pass;
}

}  // namespace tessera::mlp_block
