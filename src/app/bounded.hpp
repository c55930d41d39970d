// Bounded is a matrix in f64 together with a bound: how far a computation in f32 or f64 may lie from it. The
// unsplit formula of a lesson, evaluated on Bounded matrices, gives the truth and the bound of the floating
// tier at once. Each operation bounds its error for any order of summation, so that the bound holds for every
// cut of the sum.
//
// With u the unit round-off and |x' - x| <= e for every operand:
//   a b + rounding          : u |result|
//   sum of K terms          : gamma(K) sum |terms|; gamma(K) = min(K u / (1 - K u), 4 sqrt(K) u).
//                             The first is from Higham, Accuracy and Stability, 3.1. The second holds for
//                             independent roundings with a probability of at least 1 - 2 exp(-8) for each
//                             sum (Higham and Mary 2019, theorem 2.4).
//   operands' own errors    : |(a + ea)(b + eb) - a b| <= ea |b| + (|a| + ea) eb
//   f(x), |f'| <= L         : L e + the rounding of f itself
#pragma once

#include <memory>

#include "tensor/tensor.hpp"

namespace tessera {

/// What one evaluation shares: the unit round-off, 0 in the exact tier,
/// and the largest sum of absolute terms so far.
struct Rounding {
  double unit = 0;
  double largest_sum = 0;
};

struct Bounded {
  Tensor value, error;  // f64 on the host, both of one shape; the error of an input is 0
  std::shared_ptr<Rounding> arithmetic;
  double largest_sum = 0;  // of absolute terms, in the last reduction
};
struct BoundedTransposed {
  Bounded of;
};
inline BoundedTransposed t(const Bounded& x) { return {x}; }

/// |x| and its largest element, on the host in f64.
Tensor absolute(const Tensor& x);
inline Transposed absolute(const Transposed& x) { return {absolute(x.of)}; }
double largest(const Tensor& x);

Bounded bounded_input(const Tensor& value, std::shared_ptr<Rounding> arithmetic);

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
