#include "app/bounded.hpp"

#include <algorithm>
#include <cmath>

#include "ops/ops.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

double gamma(std::int64_t terms, double unit) {
  const double k = static_cast<double>(terms);
  return std::min(k * unit / (1 - k * unit), 4 * std::sqrt(k) * unit);
}

Bounded like(const Bounded& x) {
  return {empty_like(x.value), empty_like(x.value), x.arithmetic, x.largest_sum};
}

/// y_i = f(i) for each element; all tensors here are contiguous.
template <class F>
Tensor fill(Tensor y, const F& f) {
  for (std::int64_t i = 0; i < y.size(); ++i) y.data<double>()[i] = f(i);
  return y;
}

Bounded note_sum(Bounded y, const Tensor& magnitude) {
  y.largest_sum = largest(magnitude);
  y.arithmetic->largest_sum = std::max(y.arithmetic->largest_sum, y.largest_sum);
  return y;
}

/// The product of a and b. `multiply` multiplies two tensors in the same way, one of them transposed or none.
template <class Multiply>
Bounded product(const Bounded& a, const Bounded& b, std::int64_t terms, const Multiply& multiply) {
  const Tensor a_abs = absolute(a.value), b_abs = absolute(b.value);
  const Tensor a_most = add(a_abs, a.error);  // |a| + ea
  const Tensor own = multiply(a_most, b.error), other = multiply(a.error, b_abs);
  const Tensor magnitude = add(multiply(a_abs, b_abs), add(own, other));
  const double g = gamma(terms, a.arithmetic->unit);
  return note_sum({multiply(a.value, b.value), add(scale(magnitude, g), add(own, other)), a.arithmetic},
                  magnitude);
}

/// dx = dy f'(x), with |f''| <= curvature and the slope's own rounding below `rounding` units.
template <class Slope>
Bounded chain(const Bounded& dy, const Bounded& x, double curvature, double rounding, const Slope& slope) {
  Bounded dx = like(dy);
  const double u = x.arithmetic->unit;
  const double *g = dy.value.data<double>(), *eg = dy.error.data<double>(), *p = x.value.data<double>(),
               *e = x.error.data<double>();
  fill(dx.value, [&](std::int64_t i) { return g[i] * slope(p[i]); });
  fill(dx.error, [&](std::int64_t i) {
    const double slope_error = curvature * e[i] + rounding * u;
    return std::abs(g[i]) * slope_error + eg[i] * (std::abs(slope(p[i])) + slope_error);
  });
  return dx;
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

Bounded bounded_input(const Tensor& value, std::shared_ptr<Rounding> arithmetic) {
  const Device::Scope scope(Device::host());
  const Tensor host = cast(value.to(Device::host()).contiguous(), DType::f64);
  return {host, Tensor::zeros(host.rows(), host.cols(), DType::f64), std::move(arithmetic)};
}

Bounded matmul(const Bounded& a, const Bounded& b) {
  return product(a, b, a.value.cols(), [](const Tensor& l, const Tensor& r) { return matmul(l, r); });
}
Bounded matmul(const BoundedTransposed& a, const Bounded& b) {
  return product(a.of, b, a.of.value.rows(),
                 [](const Tensor& l, const Tensor& r) { return matmul(t(l), r); });
}
Bounded matmul(const Bounded& a, const BoundedTransposed& b) {
  return product(a, b.of, a.value.cols(), [](const Tensor& l, const Tensor& r) { return matmul(l, t(r)); });
}

Bounded add_bias(const Bounded& x, const Bounded& bias) {
  const double u = x.arithmetic->unit;
  Bounded y{add_bias(x.value, bias.value), add_bias(x.error, bias.error), x.arithmetic};
  const Tensor magnitude = add(add_bias(absolute(x.value), absolute(bias.value)), y.error);
  add_to(y.error, scale(magnitude, u));
  return note_sum(y, magnitude);
}

Bounded sum_rows(const Bounded& x) {
  const Tensor own = sum_rows(x.error), magnitude = add(sum_rows(absolute(x.value)), own);
  const double g = gamma(x.value.rows(), x.arithmetic->unit);
  return note_sum({sum_rows(x.value), add(scale(magnitude, g), own), x.arithmetic}, magnitude);
}

// |gelu'| <= 1.13. The rounding of gelu itself stays below 8 u |x|: in x/2 (1 + tanh z), z has a relative
// error of 6 u, and |z tanh'(z)| <= 0.45.
Bounded gelu(const Bounded& x) {
  Bounded y = like(x);
  const double u = x.arithmetic->unit, *p = x.value.data<double>(), *e = x.error.data<double>();
  fill(y.value, [&](std::int64_t i) { return gelu_of(p[i]); });
  fill(y.error, [&](std::int64_t i) { return 1.13 * e[i] + 8 * u * (std::abs(p[i]) + e[i]); });
  return y;
}

// |gelu''| <= 0.8, reached at 0. The rounding of the slope itself stays below 25 u (functions.hpp).
Bounded gelu_backward(const Bounded& dy, const Bounded& x) { return chain(dy, x, 0.8, 26, gelu_slope); }

Bounded relu(const Bounded& x) {
  Bounded y = like(x);
  const double* p = x.value.data<double>();
  fill(y.value, [&](std::int64_t i) { return std::max(p[i], 0.0); });
  y.error.copy_from(x.error);
  return y;
}

Bounded relu_backward(const Bounded& dy, const Bounded& x) {
  Bounded dx = chain(dy, x, 0, 0, [](double p) { return p > 0 ? 1.0 : 0.0; });
  const double *p = x.value.data<double>(), *e = x.error.data<double>(), *g = dy.value.data<double>();
  double* error = dx.error.data<double>();
  for (std::int64_t i = 0; i < dx.error.size(); ++i)  // where x may have either sign, the slope is in doubt
    if (e[i] > 0 && std::abs(p[i]) <= e[i]) error[i] = std::abs(g[i]) + dy.error.data<double>()[i];
  return dx;
}

}  // namespace tessera
