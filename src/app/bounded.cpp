#include "app/bounded.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ops/ops.hpp"

namespace tessera {

namespace {

double gamma(std::int64_t terms, double unit) {
  const double k = static_cast<double>(terms);
  const double certain = k * unit < 1 ? k * unit / (1 - k * unit) : INFINITY;
  return std::min(certain, 4 * std::sqrt(k) * unit);
}

/// y_i = f(i) for each element; all tensors here are contiguous.
template <class F>
Tensor fill(Tensor y, const F& f) {
  for (std::int64_t i = 0; i < y.size(); ++i) y.data<double>()[i] = f(i);
  return y;
}

using Values = Bounded::Values;

/// What a reduction gives. `magnitude` computes its sums of absolute terms.
template <class Magnitude>
Values reduced(Tensor value, Tensor error, Rounding& rounding, const Magnitude& magnitude) {
  const double sum = rounding.sums ? largest(magnitude()) : 0;
  rounding.largest_sum = std::max(rounding.largest_sum, sum);
  return {std::move(value), std::move(error), sum};
}

/// x + error, or x where the error is 0.
Tensor with(const Tensor& x, const Tensor& error) { return error.defined() ? add(x, error) : x; }

/// The product of a and b. `multiply` multiplies two tensors in the same way, one of them transposed or none.
/// The bound g (|a| + ea) (|b| + eb) + ea |b| + (|a| + ea) eb is computed as a product for each factor that
/// has an error: (g |a| + (1 + g) ea) |b| + (1 + g) (|a| + ea) eb.
template <class Multiply>
Bounded product_of(const Bounded& a, const Bounded& b, bool transposed, const Multiply& multiply) {
  return {a.arithmetic(), [=]() -> Values {
            const Tensor value = multiply(a->value, b->value);
            const Tensor a_abs = absolute(a->value), b_abs = absolute(b->value), ea = a->error, eb = b->error;
            const double u = a.arithmetic()->unit, g = gamma(transposed ? a_abs.rows() : a_abs.cols(), u);
            Tensor error;
            if (u > 0 && !ea.defined() && eb.defined()) {
              error = multiply(a_abs, add(scale(b_abs, g), scale(eb, 1 + g)));
            } else if (u > 0) {
              error =
                  multiply(ea.defined() ? add(scale(a_abs, g), scale(ea, 1 + g)) : scale(a_abs, g), b_abs);
              if (eb.defined()) add_to(error, scale(multiply(add(a_abs, ea), eb), 1 + g));
            }
            return reduced(value, error, *a.arithmetic(),
                           [&] { return multiply(with(a_abs, ea), with(b_abs, eb)); });
          }};
}

/// y = f(x) for each element; `error` says how far off it may be, from x and x's own error.
template <class F, class E>
Bounded element_wise(const Bounded& x, const F& f, const E& error) {
  return {
      x.arithmetic(), [=]() -> Values {
        const double* p = x->value.data<double>();
        const Tensor y = fill(empty_like(x->value), [&](std::int64_t i) { return f(p[i]); });
        if (x.arithmetic()->unit == 0) return {y, {}, x->largest_sum};
        const Tensor errors = x.error();
        const double* e = errors.data<double>();
        return {y, fill(empty_like(y), [&](std::int64_t i) { return error(p[i], e[i]); }), x->largest_sum};
      }};
}

/// dx = dy f'(x). `slope_error` says how far off the slope may be, from x and x's own error. No slope of gelu
/// or relu exceeds 1.13.
template <class Slope, class E>
Bounded chain(const Bounded& dy, const Bounded& x, const Slope& slope, const E& slope_error) {
  return {x.arithmetic(), [=]() -> Values {
            const double *g = dy->value.data<double>(), *p = x->value.data<double>();
            const Tensor dx = fill(empty_like(x->value), [&](std::int64_t i) { return g[i] * slope(p[i]); });
            if (x.arithmetic()->unit == 0) return {dx, {}, dy->largest_sum};
            const Tensor dy_errors = dy.error(), errors = x.error();
            const double *eg = dy_errors.data<double>(), *e = errors.data<double>();
            const auto error = [&](std::int64_t i) {
              const double off = slope_error(p[i], e[i]);
              return std::abs(g[i]) * off + eg[i] * std::min(std::abs(slope(p[i])) + off, 1.13);
            };
            return {dx, fill(empty_like(dx), error), dy->largest_sum};
          }};
}

constexpr double k = 0.7978845608028654, c = 0.044715;  // gelu in tanh form, see ops.hpp
double gelu_of(double x) { return 0.5 * x * (1 + std::tanh(k * (x + c * x * x * x))); }
double gelu_slope(double x) {
  const double th = std::tanh(k * (x + c * x * x * x));
  return 0.5 * (1 + th) + 0.5 * x * (1 - th * th) * k * (1 + 3 * c * x * x);
}

}  // namespace

Tensor absolute(const Tensor& x) {
  const Device::Scope scope(Device::host());
  const Tensor host = cast(x.to(Device::host()).contiguous(), DType::f64);
  return fill(empty_like(host), [p = host.data<double>()](std::int64_t i) { return std::abs(p[i]); });
}

double largest(const Tensor& x) {
  double most = 0;
  for (const double value : x.values()) most = std::max(most, std::abs(value));
  return most;
}

const Values* Bounded::operator->() const {
  if (node_->compute) node_->values = std::exchange(node_->compute, nullptr)();  // lets go of the operands
  return &node_->values;
}

Tensor Bounded::error() const {
  const Tensor& value = (*this)->value;
  return (*this)->error.defined() ? (*this)->error : Tensor::zeros(value.rows(), value.cols(), DType::f64);
}

Bounded bounded_input(std::function<Tensor()> make, std::shared_ptr<Rounding> arithmetic) {
  return {std::move(arithmetic), [make = std::move(make)]() -> Values {
            return {cast(make().to(Device::host()).contiguous(), DType::f64), {}};
          }};
}

Bounded matmul(const Bounded& a, const Bounded& b) {
  return product_of(a, b, false, [](const Tensor& l, const Tensor& r) { return matmul(l, r); });
}
Bounded matmul(const BoundedTransposed& a, const Bounded& b) {
  return product_of(a.of, b, true, [](const Tensor& l, const Tensor& r) { return matmul(t(l), r); });
}
Bounded matmul(const Bounded& a, const BoundedTransposed& b) {
  return product_of(a, b.of, false, [](const Tensor& l, const Tensor& r) { return matmul(l, t(r)); });
}

Bounded add_bias(const Bounded& x, const Bounded& bias) {
  return {x.arithmetic(), [=]() -> Values {
            const double u = x.arithmetic()->unit;
            const Tensor y = add_bias(x->value, bias->value);
            const Tensor own = add_bias(x.error(), bias.error());
            const Tensor magnitude = add(add_bias(absolute(x->value), absolute(bias->value)), own);
            return reduced(y, u > 0 ? add(scale(magnitude, u), own) : Tensor(), *x.arithmetic(),
                           [&] { return magnitude; });
          }};
}

Bounded sum_rows(const Bounded& x) {
  return {x.arithmetic(), [=]() -> Values {
            const double u = x.arithmetic()->unit, g = gamma(x->value.rows(), u);
            const Tensor own = sum_rows(x.error()), magnitude = add(sum_rows(absolute(x->value)), own);
            return reduced(sum_rows(x->value), u > 0 ? add(scale(magnitude, g), own) : Tensor(),
                           *x.arithmetic(), [&] { return magnitude; });
          }};
}

// |gelu'| <= 1.13. The rounding of gelu itself stays below 8 u |x|: in x/2 (1 + tanh z), z has a relative
// error of 6 u, and |z tanh'(z)| <= 0.45.
Bounded gelu(const Bounded& x) {
  return element_wise(x, &gelu_of, [u = x.arithmetic()->unit](double p, double e) {
    return 1.13 * e + 8 * u * (std::abs(p) + e);
  });
}

// |gelu''| <= 0.8, reached at 0. The rounding of the slope itself stays below 25 u (functions.hpp).
Bounded gelu_backward(const Bounded& dy, const Bounded& x) {
  return chain(dy, x, &gelu_slope, [u = x.arithmetic()->unit](double, double e) { return 0.8 * e + 26 * u; });
}

Bounded relu(const Bounded& x) {
  return element_wise(
      x, [](double p) { return std::max(p, 0.0); }, [](double, double e) { return e; });
}

// Where x may have either sign, the slope is in doubt by 1: it is 0 or 1.
Bounded relu_backward(const Bounded& dy, const Bounded& x) {
  return chain(
      dy, x, [](double p) { return p > 0 ? 1.0 : 0.0; },
      [](double p, double e) { return e > 0 && std::abs(p) <= e ? 1.0 : 0.0; });
}

}  // namespace tessera
