// Shared by the tests of the mathematics: matrices of doubles, operands of every dtype and layout, and
// results compared element by element with a value and its bound.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "support.hpp"
#include "tensor/random.hpp"
#include "tensor/tensor.hpp"

namespace tessera::test {

using Index = std::int64_t;
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline constexpr double sentinel = 776;  // which bf16 holds

/// u: half the distance from 1 to the next number.
inline double unit_roundoff(DType dtype) {
  return dtype == DType::f32 ? 0x1p-24 : dtype == DType::bf16 ? 0x1p-8 : 0x1p-53;
}

/// A matrix of doubles in host memory: what the reference loops read.
struct Matrix {
  Index rows = 0, cols = 0;
  std::vector<double> data;
  double operator()(Index i, Index j) const { return data[i * cols + j]; }
  double& operator()(Index i, Index j) { return data[i * cols + j]; }
};

inline Matrix elements_of(const Tensor& tensor) { return {tensor.rows(), tensor.cols(), tensor.values()}; }

inline Matrix filled(Index rows, Index cols, double value) {
  return {rows, cols, std::vector<double>(rows * cols, value)};
}

/// Uniform in [-size, size). Another name gives other numbers.
inline Matrix uniform(const char* name, Index rows, Index cols, double size = 1) {
  Matrix matrix = filled(rows, cols, 0);
  const Random random(1, name);
  for (std::size_t i = 0; i < matrix.data.size(); ++i) matrix.data[i] = size * random.uniform(i);
  return matrix;
}

inline Tensor tensor_of(const Matrix& matrix, DType dtype = DType::f64) {
  return Tensor::of(matrix.rows, matrix.cols, matrix.data, dtype);
}

inline Tensor ids_of(const std::vector<double>& ids) {
  return Tensor::of(static_cast<Index>(ids.size()), 1, ids, DType::i32);
}

struct Case {
  DType dtype;
  bool view;  // operands are parts of larger tensors
  /// Functions of bf16 compute in f32, and round what they store; sums and gradients of weights stay in f32.
  Case sums() const { return {arithmetic(dtype), view}; }
  double u() const { return unit_roundoff(sums().dtype); }
  double stored() const { return dtype == DType::bf16 ? unit_roundoff(dtype) : 0; }
};

/// An operand, alone or in the middle of sentinels that no function may touch. `values` holds its elements as
/// the dtype rounded them.
class Operand {
 public:
  Operand(const Matrix& matrix, const Case& c) : frame_(tensor_of(matrix, c.dtype)), tensor_(frame_) {
    if (c.view) {
      frame_ = tensor_of(filled(matrix.rows + 3, matrix.cols + 5, sentinel), c.dtype);
      const Tensor alone = tensor_;
      tensor_ = frame_.row_range(1, 1 + matrix.rows).column_range(2, 2 + matrix.cols);
      tensor_.copy_from(alone);
    }
    values = elements_of(tensor_);
  }
  operator const Tensor&() const { return tensor_; }  // NOLINT: stands for the tensor
  bool unchanged() const { return frame_intact() && tensor_.values() == values.data; }
  bool frame_intact() const {
    if (frame_.rows() == tensor_.rows()) return true;
    const Matrix all = elements_of(frame_);
    for (Index i = 0; i < all.rows; ++i)
      for (Index j = 0; j < all.cols; ++j) {
        const bool inside = i >= 1 && i < 1 + values.rows && j >= 2 && j < 2 + values.cols;
        if (!inside && all(i, j) != sentinel) return false;
      }
    return true;
  }

  Matrix values;

 private:
  Tensor frame_, tensor_;
};

template <class Body>
void on_every_case(const Body& body) {
  on_every_device([&] {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      for (const bool view : {false, true}) {
        INFO(name(dtype), view ? ", views" : "");
        body(Case{dtype, view});
      }
  });
}

/// The same, for each ugly shape of at least so many columns.
template <class Body>
void on_every_shape(const Body& body, Index least_cols = 0) {
  on_every_case([&](const Case& c) {
    for (const auto& [rows, cols] :
         {std::pair{1, 1}, {1, 9}, {9, 1}, {0, 5}, {5, 0}, {3, 4}, {17, 61}, {128, 257}}) {
      if (cols < least_cols) continue;
      INFO(rows, " x ", cols);
      body(c, Index{rows}, Index{cols});
    }
  });
}

/// The next tensor of this size finds NaN in its memory: a function that reads its output shows it.
inline void poison(Index rows, Index cols, DType dtype) {
  (void)tensor_of(filled(rows, cols, not_a_number), dtype);
}

struct Bounded {
  double value, bound;
};

/// "" where each element lies within its bound of truth(i, j), else the first that does not. In bf16 it was
/// rounded once more, unless it is exact.
template <class Truth>
std::string wrong(const Tensor& actual, Index rows, Index cols, const Truth& truth) {
  if (actual.rows() != rows || actual.cols() != cols) return format("it is {}", shape(actual));
  const Matrix found = elements_of(actual);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) {
      Bounded expected = truth(i, j);
      if (actual.dtype() == DType::bf16 && expected.bound > 0)
        expected.bound += unit_roundoff(DType::bf16) * std::abs(expected.value);
      if (!(std::abs(found(i, j) - expected.value) <= expected.bound))
        return format("({}, {}) is {:g}, not {:g} +- {:g}", i, j, found(i, j), expected.value,
                      expected.bound);
    }
  return "";
}

/// The same of an operand that was written to: nothing around it has changed.
template <class Truth>
std::string wrong(const Operand& actual, Index rows, Index cols, const Truth& truth) {
  if (!actual.frame_intact()) return "what lies around it has changed";
  return wrong(static_cast<const Tensor&>(actual), rows, cols, truth);
}

/// sum over i of left(i) right(i), and a bound on the error of any order of summation in a dtype of unit
/// round-off u: n u sum |left||right| (Higham, "Accuracy and Stability", 3.1),
/// doubled for our own sum in double.
template <class Left, class Right>
Bounded dot(Index n, double u, double start, const Left& left, const Right& right) {
  double sum = start, absolute = std::abs(start);
  for (Index i = 0; i < n; ++i) {
    sum += left(i) * right(i);
    absolute += std::abs(left(i) * right(i));
  }
  return {sum, 2 * static_cast<double>(n + 2) * u * absolute};
}

// A central difference (f(x + h) - f(x - h)) / 2h is off by h^2/6 |f'''|, and by r/h where f is computed with
// an error r. Here f sums up to 100 terms of size 1 in f64, so r is about 1e-14. With h = 2^-14 that is 6e-10
// |f'''| and 2e-10: a gradient is right to 1e-8 of its largest element, or of 1.
inline constexpr double step_width = 0x1p-14;
inline constexpr double gradient_bound = 1e-8;

/// "" where `gradient` is that of loss() with respect to the elements of x, which loss() reads.
template <class Loss>
std::string wrong_gradient(const Tensor& gradient, const Tensor& x, const Loss& loss) {
  const Matrix here = elements_of(x);
  const auto loss_at = [&](Index i, Index j, double value) {
    Matrix moved = here;
    moved(i, j) = value;
    x.copy_from(tensor_of(moved, x.dtype()));
    return loss();
  };
  double largest = 1;
  for (const double g : gradient.values()) largest = std::max(largest, std::abs(g));
  const std::string fault = wrong(gradient, here.rows, here.cols, [&](Index i, Index j) {
    const double up = loss_at(i, j, here(i, j) + step_width), down = loss_at(i, j, here(i, j) - step_width);
    return Bounded{(up - down) / (2 * step_width), gradient_bound * largest};
  });
  x.copy_from(tensor_of(here, x.dtype()));
  return fault;
}

/// sum of y dy: the loss whose gradient with respect to y is dy.
inline double weighted(const Tensor& y, const Tensor& dy) {
  const auto a = y.values(), b = dy.values();
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

inline constexpr auto one = [](Index) { return 1.0; };

}  // namespace tessera::test
