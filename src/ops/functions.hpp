// Each element-wise function y = f(x...), written as f(y, x...) once for the CPU and the GPU. What the tests
// prove on one of them holds on the other, up to fused multiply-adds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ops/kernels.hpp"
#include "tensor/error.hpp"
#include "tensor/portable.hpp"

namespace tessera {

/// A matrix as a loop or a kernel sees it. It is passed by value, so that nothing must be copied to a GPU
/// beforehand.
template <class T>
struct View {
  T* data;
  std::int64_t ld, rows, cols;
  View() = default;
  View(const Tensor& x)  // NOLINT: a view stands for its tensor
      : data(x.data<T>()), ld(x.ld()), rows(x.rows()), cols(x.cols()) {}
  TESSERA_BOTH T* row(std::int64_t i) const { return data + i * ld; }
};

/// Calls f with a float, a double or a bf16, whose type is that of the dtype.
template <class F>
void floating(DType dtype, const F& f) {
  with_type(dtype, [&]<class T>(T zero) {
    if constexpr (!std::is_integral_v<T>) f(zero);
  });
}
/// The same for what is computed in place. Throws Error for bf16, which would lose small steps.
template <class F>
void arithmetic(DType dtype, const F& f) {
  with_type(dtype, [&]<class T>(T zero) {
    if constexpr (std::is_floating_point_v<T>)
      f(zero);
    else
      throw Error(format("{} is for storage: a master in f32 would work", name(dtype)));
  });
}

/// a b + c, rounded once where the machine can. In a sum of two products the compiler chooses which of them
/// it rounds, and it chooses differently in the kernels that it makes of one function: here it has no choice.
/// So an optimiser gives the same bits to a whole row and to shards of it.
template <class T>
TESSERA_BOTH T multiply_add(T a, T b, T c) {
#if defined(__CUDA_ARCH__) || (defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF))
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// e^x for x <= 87, to 2 units in the last place; 0 where the result is no normal number, NaN for NaN.
/// x = n ln 2 + r with |r| <= ln(2) / 2, e^x = 2^n e^r, and Taylor's series for e^r: its rest is below u / 8.
/// It has neither a call nor a branch, so that loops over it vectorise.
template <class T>
TESSERA_BOTH T exponential(T x) {
  constexpr bool single = sizeof(T) == 4;
  using Bits = std::conditional_t<single, std::uint32_t, std::uint64_t>;
  constexpr int mantissa = single ? 23 : 52, terms = single ? 7 : 13;
  // ln 2 in two parts; the first has so few digits that n times it is exact.
  constexpr T ln2_high = single ? T(0.693359375) : T(6.93147180369123816490e-01);
  constexpr T ln2_low = single ? T(-2.12194440054690583e-4) : T(1.90821492927058770002e-10);
  constexpr T round = T(1.5) * T(Bits{1} << mantissa);  // adding it leaves n in the last bits
  const T shifted = x * T(1.44269504088896341) + round, n = shifted - round;
  const T r = (x - n * ln2_high) - n * ln2_low;
  T series = 1;  // 1 + r (1 + r/2 (1 + r/3 (...)))
  for (int k = terms; k > 0; --k) series = 1 + series * r * (T(1) / T(k));
  Bits bits;
  std::memcpy(&bits, &shifted, sizeof(T));
  bits = (bits << mantissa) + (Bits{single ? 127 : 1023} << mantissa);  // those of 2^n
  T power;
  std::memcpy(&power, &bits, sizeof(T));
  return x < (single ? T(-87) : T(-708)) ? T(0) : series * power;
}

struct Plus {
  TESSERA_BOTH void operator()(auto& y, auto a, auto b) const { y = a + b; }
};
struct Times {
  double factor;
  template <class T>
  TESSERA_BOTH void operator()(T& y, T x) const {
    y = Arithmetic<T>(factor) * x;
  }
};
struct Cast {
  template <class To>
  TESSERA_BOTH void operator()(To& y, auto x) const {
    y = static_cast<To>(x);
  }
};
struct Relu {  // relu of NaN is NaN
  template <class T>
  TESSERA_BOTH void operator()(T& y, T x) const {
    y = x <= 0 ? T(0) : x;
  }
  template <class T>
  TESSERA_BOTH void operator()(T& dx, T dy, T x) const {
    dx = x <= 0 ? T(0) : dy;
  }
};

// gelu(x) = x/2 (1 + tanh(z/2)) with z = 2 sqrt(2/pi) (x + 0.044715 x^3), which is x s(z) with the logistic
// s(z) = 1 / (1 + exp(-z)). This form lacks the cancellation of 1 + tanh in the negative tail, so that f32
// suffices. The error, with u the unit round-off: z has a relative error of at most 7 u, exp adds 4 u (2
// ulp), the rest 3 u. Since z s(z) (1 - s(z)) <= 0.23, |error of gelu| <= 6 u |x|; in the same way |error of
// the slope| <= 25 u.
struct Gelu {
  template <class T>
  struct Logistic {
    T small, s;  // exp(-|z|), s(z)
    TESSERA_BOTH explicit Logistic(T x) {
      const T z = T(2 * 0.7978845608028654) * (x + T(0.044715) * x * x * x);
      small = exponential(z < 0 ? z : -z);
      s = (z < 0 ? small : T(1)) / (1 + small);
    }
  };
  template <class T>
  TESSERA_BOTH void operator()(T& y, T x) const {
    y = x * Logistic<Arithmetic<T>>(x).s;
  }
  template <class T>
  TESSERA_BOTH void operator()(T& dx, T dy, T stored) const {
    using A = Arithmetic<T>;
    const A x = stored;
    const Logistic<A> at(x);
    const A bend = at.small / ((1 + at.small) * (1 + at.small));  // s (1 - s), without cancellation
    const A inner = A(2 * 0.7978845608028654) * (1 + A(3 * 0.044715) * x * x);
    dx = dy * (bend == 0 ? at.s : at.s + x * bend * inner);  // where bend is 0, x^2 may be infinite
  }
};

template <class T>
struct Sgd {
  static constexpr int outputs = 2;  // the first arguments; other functions have one
  T lr, momentum;
  TESSERA_BOTH void operator()(T& w, T& velocity, T g) const {
    velocity = multiply_add(momentum, velocity, g);
    w = multiply_add(-lr, velocity, w);
  }
};

template <class T>
struct AdamWStep {
  static constexpr int outputs = 3;
  // The constants are made in f64: 1 - 0.999f would be wrong by 1e-5 of itself.
  T b1, b2, c1, c2, rate, root, epsilon, keep;
  AdamWStep(const AdamW& o, std::int64_t step)
      : b1(T(o.beta1)),
        b2(T(o.beta2)),
        c1(T(1 - o.beta1)),
        c2(T(1 - o.beta2)),
        rate(T(o.lr / (1 - std::pow(o.beta1, static_cast<double>(step))))),
        root(T(1 / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(step))))),
        epsilon(T(o.epsilon)),
        keep(T(1 - o.lr * o.decay)) {}
  TESSERA_BOTH void operator()(T& w, T& m, T& v, T g) const {
    m = multiply_add(b1, m, c1 * g);
    v = multiply_add(b2, v, c2 * g * g);
    w = multiply_add(keep, w, -rate * m / multiply_add(std::sqrt(v), root, epsilon));
  }
};

}  // namespace tessera
