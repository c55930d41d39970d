// Bounded is a matrix in f64 together with a bound: how far a computation in f32 or f64 may lie from it. The
// unsplit formula of a lesson, evaluated on Bounded matrices, gives the truth and the bound of the floating
// tier at once. Each operation bounds its error for any order of summation, so that the bound holds for every
// cut of the sum.
//
// With u the unit round-off and |x' - x| <= e for every operand:
//   a b + rounding          : u |result|
//   sum of W terms          : gamma(W) sum |terms|; gamma(W) = min(W u / (1 - W u), 4 sqrt(W) u).
//                             The first is from Higham, Accuracy and Stability, 3.1. The second holds for
//                             independent roundings with a probability of at least 1 - 2 exp(-8) for each
//                             sum (Higham and Mary 2019, theorem 2.4).
//   operands' own errors    : |(a + ea)(b + eb) - a b| <= ea |b| + (|a| + ea) eb
//   f(x), |f'| <= L         : L e + the rounding of f itself
#pragma once

#include <functional>
#include <memory>

#include "tensor/tensor.hpp"

namespace tessera {

/// What one evaluation shares: the unit round-off, 0 in the exact tier; whether anybody asks for the largest
/// sums of absolute terms; and the largest so far.
struct Rounding {
  double unit = 0;
  bool sums = false;
  double largest_sum = 0;
};

/// A Bounded is computed when it is first looked at: where only a part of a formula's results is wanted, the
/// others take neither time nor memory.
class Bounded {
 public:
  struct Values {
    Tensor value, error;     // f64 on the host, both of one shape; an undefined error is 0
    double largest_sum = 0;  // of absolute terms, in the last reduction, where the Rounding asks for it
  };
  Bounded() = default;
  Bounded(std::shared_ptr<Rounding> arithmetic, std::function<Values()> compute)
      : node_(std::make_shared<Node>(Node{std::move(arithmetic), std::move(compute), {}})) {}
  const Values* operator->() const;
  const std::shared_ptr<Rounding>& arithmetic() const { return node_->arithmetic; }
  Tensor error() const;  ///< The bound of each element, as a tensor of zeros where all are 0.

 private:
  struct Node {
    std::shared_ptr<Rounding> arithmetic;
    std::function<Values()> compute;
    Values values;
  };
  std::shared_ptr<Node> node_;
};
struct BoundedTransposed {
  Bounded of;
};
inline BoundedTransposed t(const Bounded& x) { return {x}; }

/// |x| and its largest element, on the host in f64.
Tensor absolute(const Tensor& x);
inline Transposed absolute(const Transposed& x) { return {absolute(x.of)}; }
double largest(const Tensor& x);

/// An input, which has no error. `make` gives its elements, in any dtype on any device.
Bounded bounded_input(std::function<Tensor()> make, std::shared_ptr<Rounding> arithmetic);

// The functions of ops.hpp for Bounded, so that one template computes with Tensor and with Bounded.
Bounded matmul(const Bounded& a, const Bounded& b);
Bounded matmul(const BoundedTransposed& a, const Bounded& b);
Bounded matmul(const Bounded& a, const BoundedTransposed& b);
Bounded add_bias(const Bounded& x, const Bounded& c);
Bounded sum_rows(const Bounded& x);
Bounded gelu(const Bounded& x);
Bounded gelu_backward(const Bounded& dy, const Bounded& x);
Bounded relu(const Bounded& x);
Bounded relu_backward(const Bounded& dy, const Bounded& x);

}  // namespace tessera
