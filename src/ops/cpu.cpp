// The mathematics on the CPU: GEMM from a BLAS, everything else as plain loops over rows.
#include <algorithm>
#include <cmath>

#include "ops/blas.hpp"
#include "ops/kernels.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

thread_local int math_threads = 1;

/// body(i) for i in [0, n), on this rank's threads. Work below a few thousand elements is not worth a thread.
template <class Body>
void for_rows(std::int64_t n, std::int64_t work_per_row, const Body& body) {
  [[maybe_unused]] const int threads = n * work_per_row >= 32768 ? math_threads : 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (std::int64_t i = 0; i < n; ++i) body(i);
}

/// Calls f<T>(a float or a double that tells the type).
template <class F>
void dispatch(DType dtype, const F& f) {
  if (dtype == DType::f32)
    f(float{});
  else if (dtype == DType::f64)
    f(double{});
  else
    f(std::int32_t{});
}

template <class T>
T* row(const Tensor& tensor, std::int64_t i) {
  return tensor.data<T>() + i * tensor.ld();
}

/// y_ij = f(x_ij...) for tensors of one shape.
template <class T, class F, class... In>
void map(const F& f, const Tensor& y, const In&... in) {
  for_rows(y.rows(), y.cols(), [&](std::int64_t i) {
    T* out = row<T>(y, i);
    [&](const auto*... x) {
      for (std::int64_t j = 0; j < y.cols(); ++j) out[j] = f(x[j]...);
    }(row<T>(in, i)...);
  });
}

// gelu(x) = x/2 (1 + tanh(k (x + c x^3))), k = sqrt(2/pi).
constexpr double gelu_k = 0.7978845608028654, gelu_c = 0.044715;

template <class T>
T gelu_value(T x) {
  return T(0.5) * x * (1 + std::tanh(T(gelu_k) * (x + T(gelu_c) * x * x * x)));
}

template <class T>
T gelu_slope(T x) {
  const T th = std::tanh(T(gelu_k) * (x + T(gelu_c) * x * x * x));
  return T(0.5) * (1 + th) + T(0.5) * x * (1 - th * th) * T(gelu_k) * (1 + 3 * T(gelu_c) * x * x);
}

struct CpuKernels final : Kernels {
  void gemm(const Tensor& c, double beta, const Tensor& a, bool ta, const Tensor& b, bool tb) const override {
    const std::int64_t k = ta ? a.rows() : a.cols();
    if (c.size() == 0) return;
    if (c.dtype() == DType::f32)
      blas::gemm(ta, tb, c.rows(), c.cols(), k, a.data<float>(), a.ld(), b.data<float>(), b.ld(),
                 static_cast<float>(beta), c.data<float>(), c.ld());
    else
      blas::gemm(ta, tb, c.rows(), c.cols(), k, a.data<double>(), a.ld(), b.data<double>(), b.ld(), beta,
                 c.data<double>(), c.ld());
  }

  void add(const Tensor& y, const Tensor& a, const Tensor& b) const override {
    dispatch(y.dtype(), [&]<class T>(T) { map<T>([](T p, T q) { return p + q; }, y, a, b); });
  }

  void scale(const Tensor& y, const Tensor& x, double factor) const override {
    dispatch(y.dtype(), [&]<class T>(T) { map<T>([f = T(factor)](T p) { return f * p; }, y, x); });
  }

  void add_bias(const Tensor& y, const Tensor& x, const Tensor& c) const override {
    dispatch(y.dtype(), [&]<class T>(T) {
      for_rows(y.rows(), y.cols(), [&](std::int64_t i) {
        for (std::int64_t j = 0; j < y.cols(); ++j) row<T>(y, i)[j] = row<T>(x, i)[j] + c.data<T>()[j];
      });
    });
  }

  void sum_rows(const Tensor& out, double beta, const Tensor& x) const override {
    // Each thread owns columns, so that the order of the sum is always that of the rows.
    constexpr std::int64_t width = 64;
    dispatch(out.dtype(), [&]<class T>(T) {
      for_rows((x.cols() + width - 1) / width, width * x.rows(), [&](std::int64_t block) {
        const std::int64_t begin = block * width, end = std::min(begin + width, x.cols());
        T* sum = out.data<T>();
        for (std::int64_t j = begin; j < end; ++j) sum[j] = beta == 0 ? T(0) : T(beta) * sum[j];
        for (std::int64_t i = 0; i < x.rows(); ++i)
          for (std::int64_t j = begin; j < end; ++j) sum[j] += row<T>(x, i)[j];
      });
    });
  }

  void gelu(const Tensor& y, const Tensor& x) const override {
    dispatch(y.dtype(), [&]<class T>(T) { map<T>([](T p) { return T(gelu_value<double>(p)); }, y, x); });
  }
  void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    dispatch(dx.dtype(),
             [&]<class T>(T) { map<T>([](T g, T p) { return T(g * gelu_slope<double>(p)); }, dx, dy, x); });
  }
  void relu(const Tensor& y, const Tensor& x) const override {
    dispatch(y.dtype(), [&]<class T>(T) { map<T>([](T p) { return p <= 0 ? T(0) : p; }, y, x); });
  }
  void relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    dispatch(dx.dtype(), [&]<class T>(T) { map<T>([](T g, T p) { return p <= 0 ? T(0) : g; }, dx, dy, x); });
  }

  void cast(const Tensor& y, const Tensor& x) const override {
    for_rows(y.rows(), y.cols(), [&](std::int64_t i) {
      if (y.dtype() == DType::f32)
        std::transform(row<double>(x, i), row<double>(x, i) + x.cols(), row<float>(y, i),
                       [](double v) { return static_cast<float>(v); });
      else
        std::copy_n(row<float>(x, i), x.cols(), row<double>(y, i));
    });
  }

  void embedding(const Tensor& y, const Tensor& ids, const Tensor& table) const override {
    dispatch(y.dtype(), [&]<class T>(T) {
      for_rows(y.rows(), y.cols(), [&](std::int64_t i) {
        const std::int32_t id = ids.data<std::int32_t>()[i];
        if (0 <= id && id < table.rows())
          std::copy_n(row<T>(table, id), y.cols(), row<T>(y, i));
        else
          std::fill_n(row<T>(y, i), y.cols(), T(0));
      });
    });
  }

  void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) const override {
    dispatch(dy.dtype(), [&]<class T>(T) {
      for (std::int64_t i = 0; i < dy.rows(); ++i) {
        const std::int32_t id = ids.data<std::int32_t>()[i];
        if (id < 0 || id >= dtable.rows()) continue;
        for (std::int64_t j = 0; j < dy.cols(); ++j) row<T>(dtable, id)[j] += row<T>(dy, i)[j];
      }
    });
  }

  void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                     const Tensor& targets) const override {
    dispatch(logits.dtype(), [&]<class T>(T) {
      for_rows(logits.rows(), logits.cols(), [&](std::int64_t i) {
        const T* x = row<T>(logits, i);
        T* p = row<T>(probabilities, i);
        const T largest = *std::max_element(x, x + logits.cols());  // keeps exp from overflowing
        T sum = 0;
        for (std::int64_t j = 0; j < logits.cols(); ++j) sum += p[j] = std::exp(x[j] - largest);
        for (std::int64_t j = 0; j < logits.cols(); ++j) p[j] /= sum;
        row<T>(loss, i)[0] = std::log(sum) - (x[targets.data<std::int32_t>()[i]] - largest);
      });
    });
  }

  void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities, const Tensor& targets,
                              double factor) const override {
    dispatch(dlogits.dtype(), [&]<class T>(T) {
      for_rows(dlogits.rows(), dlogits.cols(), [&](std::int64_t i) {
        const T *p = row<T>(probabilities, i), f = T(factor);
        T* out = row<T>(dlogits, i);
        const std::int32_t target = targets.data<std::int32_t>()[i];
        for (std::int64_t j = 0; j < dlogits.cols(); ++j) out[j] = f * (p[j] - (j == target ? T(1) : T(0)));
      });
    });
  }

  void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr,
           double momentum) const override {
    dispatch(w.dtype(), [&]<class T>(T) {
      map<T>([mu = T(momentum)](T v, T d) { return mu * v + d; }, velocity, velocity, g);
      map<T>([step = T(lr)](T p, T v) { return p - step * v; }, w, w, velocity);
    });
  }

  void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, double lr, double beta1,
             double beta2, double epsilon, double decay, std::int64_t step) const override {
    const double n = static_cast<double>(step);
    const double unbias1 = 1 - std::pow(beta1, n), unbias2 = 1 - std::pow(beta2, n);
    dispatch(w.dtype(), [&]<class T>(T) {
      // In double: 1 - 0.999f would be wrong by 1e-5 of itself.
      const T b1 = T(beta1), b2 = T(beta2), c1 = T(1 - beta1), c2 = T(1 - beta2), rate = T(lr / unbias1),
              root = T(1 / std::sqrt(unbias2)), eps = T(epsilon);
      const T keep = T(1 - lr * decay);
      for_rows(w.rows(), w.cols(), [&](std::int64_t i) {
        T *wi = row<T>(w, i), *mi = row<T>(m, i), *vi = row<T>(v, i);
        const T* gi = row<T>(g, i);
        for (std::int64_t j = 0; j < w.cols(); ++j) {
          mi[j] = b1 * mi[j] + c1 * gi[j];
          vi[j] = b2 * vi[j] + c2 * gi[j] * gi[j];
          wi[j] = keep * wi[j] - rate * mi[j] / (std::sqrt(vi[j]) * root + eps);
        }
      });
    });
  }

  void reduce(const Tensor& out, const std::vector<Tensor>& inputs, Reduce how) const override {
    // Blocks that stay in the first-level cache, each summed over all inputs before the next one is touched.
    constexpr std::int64_t block = 2048;
    dispatch(out.dtype(), [&]<class T>(T) {
      T sum[block];
      for (std::int64_t begin = 0; begin < out.size(); begin += block) {
        const std::int64_t n = std::min(block, out.size() - begin);
        std::copy_n(inputs[0].data<T>() + begin, n, sum);
        for (std::size_t k = 1; k < inputs.size(); ++k) {
          const T* x = inputs[k].data<T>() + begin;
          if (how == Reduce::sum)
            for (std::int64_t j = 0; j < n; ++j) sum[j] += x[j];
          else
            for (std::int64_t j = 0; j < n; ++j) sum[j] = sum[j] >= x[j] || sum[j] != sum[j] ? sum[j] : x[j];
        }
        std::copy_n(sum, n, out.data<T>() + begin);
      }
    });
  }
};

}  // namespace

const Kernels& cpu_kernels() {
  static const CpuKernels kernels;
  return kernels;
}

void set_math_threads(int threads) {
  math_threads = threads;
  blas::set_threads(threads);
}

}  // namespace tessera
