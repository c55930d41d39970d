// The mathematics on a GPU: GEMM from cuBLAS, element-wise kernels here, row-wise ones in cuda_rows.cu. Every
// sum has a fixed order and no atomics, so a run repeats bit by bit.
#include <climits>
#include <cmath>

#include "ops/cuda_launch.hpp"
#include "ops/kernels.hpp"

namespace tessera {

namespace {

using gpu::blocks_for;
using gpu::floating;
using gpu::for_each_element;
using gpu::launch;
using gpu::View;

/// y_ij = f(x_ij...) for matrices of one shape, each with its own leading dimension.
template <class T, class F, class... In>
__global__ void map_kernel(std::int64_t size, std::int64_t cols, F f, View<T> y, View<const In>... x) {
  for_each_element(size, [&](std::int64_t e) {
    const std::int64_t i = e / cols, j = e % cols;
    y.row(i)[j] = f(x.row(i)[j]...);
  });
}

template <class T, class... In, class F, class... Inputs>
void map(const F& f, const Tensor& y, const Inputs&... x) {
  launch(y, blocks_for(y.size()), map_kernel<T, F, In...>, y.size(), y.cols(), f, View<T>(y),
         View<const In>(x)...);
}

template <class T>
struct Plus {
  __device__ T operator()(T a, T b) const { return a + b; }
};
template <class T>
struct Times {
  T factor;
  __device__ T operator()(T x) const { return factor * x; }
};
template <class To, class From>
struct Cast {
  __device__ To operator()(From x) const { return static_cast<To>(x); }
};
template <class T>
struct Relu {
  __device__ T operator()(T x) const { return x <= 0 ? T(0) : x; }  // NaN passes
  __device__ T operator()(T dy, T x) const { return x <= 0 ? T(0) : dy; }
};

// gelu(x) = x/2 (1 + tanh(z/2)) with z = 2 sqrt(2/pi) (x + 0.044715 x^3), which is x s(z) with the logistic
// s(z) = 1 / (1 + exp(-z)): without the cancellation of 1 + tanh in the negative tail, so that f32 will do.
// Error, u the unit round-off: z has a relative error of at most 7 u, exp adds 4 u (2 ulp), the rest 3 u. As
// z s(z) (1 - s(z)) <= 0.23, |error of gelu| <= 6 u |x|; likewise |error of the slope| <= 25 u.
template <class T>
struct Gelu {
  static constexpr T k = T(2 * 0.7978845608028654), c = T(0.044715);

  __device__ static T logistic(T z) { return 1 / (1 + exp(-z)); }
  __device__ static T argument(T x) { return k * (x + c * x * x * x); }
  __device__ T operator()(T x) const { return x * logistic(argument(x)); }
  __device__ T operator()(T dy, T x) const {
    const T z = argument(x), s = logistic(z), bend = s * logistic(-z);  // s (1 - s), without cancellation
    // Where bend is 0, x^2 may be infinite.
    return dy * (bend == 0 ? s : s + x * bend * k * (1 + 3 * c * x * x));
  }
};

template <class T>
__global__ void add_bias_kernel(std::int64_t size, std::int64_t cols, View<T> y, View<const T> x,
                                View<const T> c) {
  for_each_element(size, [&](std::int64_t e) {
    const std::int64_t i = e / cols, j = e % cols;
    y.row(i)[j] = x.row(i)[j] + c.data[j];
  });
}

template <class T>
__global__ void sgd_kernel(std::int64_t size, std::int64_t cols, View<T> w, View<T> velocity, View<const T> g,
                           T lr, T momentum) {
  for_each_element(size, [&](std::int64_t e) {
    const std::int64_t i = e / cols, j = e % cols;
    T& v = velocity.row(i)[j];
    v = momentum * v + g.row(i)[j];
    w.row(i)[j] -= lr * v;
  });
}

/// The step's constants, made in f64 on the host.
template <class T>
struct AdamWStep {
  T b1, b2, rate, root, epsilon, keep;
};

template <class T>
__global__ void adamw_kernel(std::int64_t size, std::int64_t cols, View<T> w, View<T> m, View<T> v,
                             View<const T> g, AdamWStep<T> o) {
  for_each_element(size, [&](std::int64_t e) {
    const std::int64_t i = e / cols, j = e % cols;
    T &mi = m.row(i)[j], &vi = v.row(i)[j], &wi = w.row(i)[j];
    const T gi = g.row(i)[j];
    mi = o.b1 * mi + (1 - o.b1) * gi;
    vi = o.b2 * vi + (1 - o.b2) * gi * gi;
    wi = o.keep * wi - o.rate * mi / (sqrt(vi) * o.root + o.epsilon);
  });
}

constexpr std::size_t most_inputs = 64;

template <class T>
struct Inputs {
  const T* of[most_inputs];
  int count;
};

/// A thread reads its element of all inputs before it writes: out may be one of them.
template <class T, bool largest>
__global__ void reduce_kernel(std::int64_t size, T* out, Inputs<T> inputs) {
  for_each_element(size, [&](std::int64_t e) {
    T result = inputs.of[0][e];
    for (int k = 1; k < inputs.count; ++k) {
      const T x = inputs.of[k][e];
      if constexpr (largest)
        result = result < x ? x : result;
      else
        result += x;
    }
    out[e] = result;
  });
}

template <class T>
void reduce_typed(const Tensor& out, const std::vector<Tensor>& tensors, Reduce how) {
  Inputs<T> inputs{};
  for (const Tensor& tensor : tensors) inputs.of[inputs.count++] = tensor.data<T>();
  const auto kernel = how == Reduce::max ? reduce_kernel<T, true> : reduce_kernel<T, false>;
  launch(out, blocks_for(out.size()), kernel, out.size(), out.data<T>(), inputs);
}

int blas_size(std::int64_t n) {
  expect(n <= INT_MAX, str("matmul: cuBLAS counts to ", INT_MAX, ", this matrix has a side of ", n));
  return static_cast<int>(n);
}

struct CudaKernels final : Kernels {
  /// cuBLAS reads column-major. A row-major matrix, read so, is its own transpose, with the same leading
  /// dimension; and the row-major C = op(A) op(B) is, read so, C^T = op(B)^T op(A)^T. So: the operands change
  /// places, the sizes m and n with them, and the flags of transposition stay as they are.
  void gemm(const Tensor& c, double beta, const Tensor& a, bool ta, const Tensor& b, bool tb) const override {
    const std::int64_t terms = ta ? a.rows() : a.cols();
    if (c.size() == 0) return;
    if (terms == 0) {  // a leading dimension may be 0 here, which cuBLAS refuses
      if (beta == 0)
        c.zero();
      else
        scale(c, c, beta);
      return;
    }
    const CudaDevice& device = cuda_device(c.device());
    const auto flag = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    const int m = blas_size(c.cols()), n = blas_size(c.rows()), k = blas_size(terms);
    const int lda = blas_size(a.ld()), ldb = blas_size(b.ld()), ldc = blas_size(c.ld());
    if (c.dtype() == DType::f32) {
      const float one = 1, keep = static_cast<float>(beta);
      CUBLAS_CHECK(cublasSgemm(device.blas(), flag(tb), flag(ta), m, n, k, &one, b.data<float>(), ldb,
                               a.data<float>(), lda, &keep, c.data<float>(), ldc));
    } else {
      const double one = 1;
      CUBLAS_CHECK(cublasDgemm(device.blas(), flag(tb), flag(ta), m, n, k, &one, b.data<double>(), ldb,
                               a.data<double>(), lda, &beta, c.data<double>(), ldc));
    }
  }

  void add(const Tensor& y, const Tensor& a, const Tensor& b) const override {
    floating(y.dtype(), [&]<class T>(T) { map<T, T, T>(Plus<T>{}, y, a, b); });
  }
  void scale(const Tensor& y, const Tensor& x, double factor) const override {
    floating(y.dtype(), [&]<class T>(T) { map<T, T>(Times<T>{static_cast<T>(factor)}, y, x); });
  }
  void add_bias(const Tensor& y, const Tensor& x, const Tensor& c) const override {
    floating(y.dtype(), [&]<class T>(T) {
      launch(y, blocks_for(y.size()), add_bias_kernel<T>, y.size(), y.cols(), View<T>(y), View<const T>(x),
             View<const T>(c));
    });
  }
  void gelu(const Tensor& y, const Tensor& x) const override {
    floating(y.dtype(), [&]<class T>(T) { map<T, T>(Gelu<T>{}, y, x); });
  }
  void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    floating(dx.dtype(), [&]<class T>(T) { map<T, T, T>(Gelu<T>{}, dx, dy, x); });
  }
  void relu(const Tensor& y, const Tensor& x) const override {
    floating(y.dtype(), [&]<class T>(T) { map<T, T>(Relu<T>{}, y, x); });
  }
  void relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    floating(dx.dtype(), [&]<class T>(T) { map<T, T, T>(Relu<T>{}, dx, dy, x); });
  }
  void cast(const Tensor& y, const Tensor& x) const override {
    if (y.dtype() == DType::f32)
      map<float, double>(Cast<float, double>{}, y, x);
    else
      map<double, float>(Cast<double, float>{}, y, x);
  }

  void sum_rows(const Tensor& out, double beta, const Tensor& x) const override {
    gpu::sum_rows(out, beta, x);
  }
  void embedding(const Tensor& y, const Tensor& ids, const Tensor& table) const override {
    gpu::embedding(y, ids, table);
  }
  void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) const override {
    gpu::embedding_backward(dtable, dy, ids);
  }
  void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                     const Tensor& targets) const override {
    gpu::cross_entropy(loss, probabilities, logits, targets);
  }
  void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities, const Tensor& targets,
                              double factor) const override {
    gpu::cross_entropy_backward(dlogits, probabilities, targets, factor);
  }

  void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr,
           double momentum) const override {
    floating(w.dtype(), [&]<class T>(T) {
      launch(w, blocks_for(w.size()), sgd_kernel<T>, w.size(), w.cols(), View<T>(w), View<T>(velocity),
             View<const T>(g), static_cast<T>(lr), static_cast<T>(momentum));
    });
  }
  void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, double lr, double beta1,
             double beta2, double epsilon, double decay, std::int64_t step) const override {
    const double n = static_cast<double>(step);
    const double unbias1 = 1 - std::pow(beta1, n), unbias2 = 1 - std::pow(beta2, n);
    floating(w.dtype(), [&]<class T>(T) {
      const AdamWStep<T> constants{T(beta1),   T(beta2),         T(lr / unbias1), T(1 / std::sqrt(unbias2)),
                                   T(epsilon), T(1 - lr * decay)};
      launch(w, blocks_for(w.size()), adamw_kernel<T>, w.size(), w.cols(), View<T>(w), View<T>(m), View<T>(v),
             View<const T>(g), constants);
    });
  }

  void reduce(const Tensor& out, const std::vector<Tensor>& inputs, Reduce how) const override {
    expect(inputs.size() <= most_inputs,
           str("reduce: ", inputs.size(), " ranks share this GPU, ", most_inputs, " are the most"));
    if (out.dtype() == DType::i32) return reduce_typed<std::int32_t>(out, inputs, how);
    floating(out.dtype(), [&]<class T>(T) { reduce_typed<T>(out, inputs, how); });
  }
};

}  // namespace

const Kernels& cuda_kernels() {
  static const CudaKernels kernels;
  return kernels;
}

}  // namespace tessera
