// A multi-layer perceptron on one device: Y = f(X A + c1) B + c2, with f = gelu or relu. N tokens, K columns
// in, F hidden, M out. This is what every later lesson cuts.
#pragma once

#include "ops/ops.hpp"

namespace tessera::mlp {

enum class Activation { gelu, relu };

/// f and its backward, for whatever has them: Tensor here, later matrices that are cut, or that carry bounds.
template <class M>
M activate(const M& x, Activation f) {
  return f == Activation::gelu ? gelu(x) : relu(x);
}
template <class M>
M activate_backward(const M& dy, const M& x, Activation f) {
  return f == Activation::gelu ? gelu_backward(dy, x) : relu_backward(dy, x);
}

inline constexpr int code_line = __LINE__ + 3;
// begin mlp
/// Layers keep no tape: what the backward needs of one batch is its Saved.
struct Mlp {
  Tensor a, c1, b, c2;      // (K, F), (1, F), (F, M), (1, M)
  Tensor da, dc1, db, dc2;  // their gradients, summed over batches
  Activation f = Activation::gelu;

  struct Saved {
    Tensor x, pre, h;  // (N, K), (N, F), (N, F)  pre = X A + c1, h = f(pre)
    Tensor dpre, dy;   // (N, F), (N, M)
  };

  Mlp(const Tensor& a_, const Tensor& c1_, const Tensor& b_, const Tensor& c2_, Activation f_)
      : a(a_),
        c1(c1_),
        b(b_),
        c2(c2_),
        da(zero_gradient(a)),
        dc1(zero_gradient(c1)),
        db(zero_gradient(b)),
        dc2(zero_gradient(c2)),
        f(f_) {}

  // task 01.forward (function, 2 points, 15 min): X (N, K) -> Y (N, M), and keep what the backward needs.
  // Hint: two products, two biases, one f.
  Tensor forward(const Tensor& x, Saved& saved) const {
    saved.x = x;
    saved.pre = add_bias(matmul(x, a), c1);   // (N, F)
    saved.h = activate(saved.pre, f);         // (N, F)
    return add_bias(matmul(saved.h, b), c2);  // (N, M)
  }
  // end task

  // task 01.backward_input (function, 2 points, 20 min): dY (N, M) -> dX (N, K). Hint: read forward from its
  // last line to its first; for Y = X A the gradient of X is dY A'.
  Tensor backward_input(const Tensor& dy, Saved& saved) const {
    saved.dy = dy;
    const Tensor dh = matmul(dy, t(b));                // (N, F)
    saved.dpre = activate_backward(dh, saved.pre, f);  // (N, F)
    return matmul(saved.dpre, t(a));                   // (N, K)
  }
  // end task

  // task 01.backward_weight (function, 2 points, 15 min): add to da, dc1, db, dc2. Hint: for Y = X A + c the
  // gradient of A is X' dY, and c was added to every row.
  void backward_weight(const Saved& saved) const {
    add_matmul(db, t(saved.h), saved.dy);    // (F, M) += H' dY
    add_sum_rows(dc2, saved.dy);             // (1, M)
    add_matmul(da, t(saved.x), saved.dpre);  // (K, F) += X' dP
    add_sum_rows(dc1, saved.dpre);           // (1, F)
  }
  // end task
};
// end mlp

}  // namespace tessera::mlp
