// A multi-layer perceptron on one device: Y = f(X A + c1) B + c2, with f = gelu or relu. X has N tokens of W
// columns, the hidden layer has F columns, and Y has M. The later lessons cut this model over ranks.
#pragma once

#include "ops/ops.hpp"

namespace tessera::mlp {

enum class Activation { gelu, relu };

/// f and its backward for every type that has them: Tensor here, later also matrices that are cut over ranks
/// and matrices that carry error bounds.
template <class M>
M activate(const M& x, Activation f) {
  return f == Activation::gelu ? gelu(x) : relu(x);
}
template <class M>
M activate_backward(const M& dy, const M& x, Activation f) {
  return f == Activation::gelu ? gelu_backward(dy, x) : relu_backward(dy, x);
}

inline constexpr int code_line = __LINE__ + 4;
// begin mlp
/// Layers keep no tape. What the backward of one batch needs lies in that batch's Saved, so that several
/// batches can be between their forward and their backward at the same time.
struct Mlp {
  Tensor a, c1, b, c2;  // (W, F), (1, F), (F, M), (1, M)
  Activation f = Activation::gelu;
  // The gradients of the weights, summed over batches.
  Tensor da = zero_gradient(a), dc1 = zero_gradient(c1), db = zero_gradient(b), dc2 = zero_gradient(c2);

  struct Saved {
    Tensor x, pre, h;  // (N, W), (N, F), (N, F)  pre = X A + c1, h = f(pre)
    Tensor dpre, dy;   // (N, F), (N, M)
  };

  // task 01.forward (function, 2 points, 15 min): compute Y (N, M) from X (N, W), and keep what the backward
  // needs. Hint: there are two products, two biases and one f.
  Tensor forward(const Tensor& x, Saved& saved) const {
    saved.x = x;
    saved.pre = add_bias(matmul(x, a), c1);   // (N, F)
    saved.h = activate(saved.pre, f);         // (N, F)
    return add_bias(matmul(saved.h, b), c2);  // (N, M)
  }
  // end task

  // task 01.backward_input (function, 2 points, 20 min): compute dX (N, W) from dY (N, M). Hint: read forward
  // from its last line to its first; for Y = X A the gradient of X is dY A'.
  Tensor backward_input(const Tensor& dy, Saved& saved) const {
    saved.dy = dy;
    const Tensor dh = matmul(dy, t(b));                // (N, F)
    saved.dpre = activate_backward(dh, saved.pre, f);  // (N, F)
    return matmul(saved.dpre, t(a));                   // (N, W)
  }
  // end task

  // task 01.backward_weight (function, 2 points, 15 min): add the gradients of this batch to da, dc1, db and
  // dc2, without a temporary matrix: bytes are counted. Hint: for Y = X A + c the gradient of A is X' dY, and
  // c was added to every row; which functions of ops.hpp add what they compute to a sum?
  void backward_weight(const Saved& saved) const {
    add_matmul(db, t(saved.h), saved.dy);    // (F, M) += H' dY
    add_sum_rows(dc2, saved.dy);             // (1, M)
    add_matmul(da, t(saved.x), saved.dpre);  // (W, F) += X' dU
    add_sum_rows(dc1, saved.dpre);           // (1, F)
  }
  // end task
};
// end mlp

/// What one forward and backward pass gives.
struct Step {
  Tensor y, dx;  // (N, M), (N, W)
  Mlp::Saved saved;
};

/// Takes X (N, W) forward and dY (N, M) backward; adds the gradients of the weights to the model's.
inline Step step(const Mlp& model, const Tensor& x, const Tensor& dy) {
  Step pass;
  pass.y = model.forward(x, pass.saved);
  pass.dx = model.backward_input(dy, pass.saved);
  model.backward_weight(pass.saved);
  return pass;
}

}  // namespace tessera::mlp
