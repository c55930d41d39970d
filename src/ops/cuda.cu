// The mathematics on a GPU: GEMM comes from cuBLAS, threads compute elements, and blocks compute rows. Every
// sum has a fixed order and uses no atomics, so that a run repeats bit by bit.
#include <algorithm>
#include <climits>
#include <utility>

#include "ops/mathematics.hpp"
#include "tensor/device_cuda.hpp"

namespace tessera {

namespace {

constexpr int block_size = 256;  // in threads

struct Grid {
  std::int64_t blocks, rows = 1;       // CUDA allows 65535 rows of blocks
  Grid(std::int64_t n) : blocks(n) {}  // NOLINT: a number of blocks is a grid of one row
  Grid(std::int64_t n, std::int64_t of) : blocks(n), rows(std::min<std::int64_t>(of, 65535)) {}
};

/// Launches kernel(arguments) on the active stream of the tensor's device. Nothing is launched where there
/// is no work: a grid of 0 blocks is an error in CUDA.
template <class... Parameters, class... Arguments>
void launch(const Tensor& where, const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
  if (grid.blocks == 0 || grid.rows == 0) return;
  const CudaDevice& device = cuda_device(where.device());
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.rows));
  config.blockDim = block_size;
  config.stream = device.stream();
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

/// The blocks for n independent elements. Beyond 2^16 blocks a thread takes several elements, a grid apart.
std::int64_t blocks_for(std::int64_t n) {
  return std::min<std::int64_t>((n + block_size - 1) / block_size, 65536);
}

/// Calls body(i) for this thread's share of [0, n).
template <class Body>
__device__ void for_each_element(std::int64_t n, const Body& body) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) body(i);
}

/// The team of a row (row_functions.hpp): thread t of the block takes j = t, t + 256, ...
struct Block {
  template <class F>
  __device__ void each(std::int64_t n, const F& f) const {
    for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) f(j);
  }
  template <class F>
  __device__ auto sum(std::int64_t n, const F& f) const {
    using T = decltype(f(n));
    T total = 0;
    each(n, [&](std::int64_t j) { total += f(j); });
    return fold(total, [](T a, T b) { return a + b; });
  }
  template <class F>
  __device__ auto largest(std::int64_t n, const F& f) const {
    using T = decltype(f(n));
    T most = -T(INFINITY);
    each(n, [&](std::int64_t j) { most = max(most, f(j)); });
    return fold(most, [](T a, T b) { return max(a, b); });
  }
  __device__ bool first() const { return threadIdx.x == 0; }

 private:
  /// Gives fold(..., fold(v0, v128)...) to all threads. The tree of folds does not depend on timing.
  template <class T, class Fold>
  __device__ static T fold(T value, const Fold& fold) {
    __shared__ T values[block_size];
    values[threadIdx.x] = value;
    for (int half = block_size / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) values[threadIdx.x] = fold(values[threadIdx.x], values[threadIdx.x + half]);
    }
    __syncthreads();
    const T result = values[0];
    __syncthreads();  // from here on the next fold may write
    return result;
  }
};

/// Rows of blocks take rows of elements. A single index would have to be split into i and j by a 64-bit
/// division for each element, which costs more than the memory access itself.
template <class F, class... T>
__global__ void each_kernel(std::int64_t rows, std::int64_t cols, F f, View<T>... x) {
  for (std::int64_t i = blockIdx.y; i < rows; i += gridDim.y)
    for_each_element(cols, [&](std::int64_t j) { f(x.row(i)[j]...); });
}

template <class F>
__global__ void rows_kernel(F f) {
  f(Block{}, blockIdx.x);
}

/// The 32 columns of a warp lie side by side in memory. Each of the block's 8 warps takes every eighth row,
/// and their sums are added in the order of the warps.
template <class T, class F>
__global__ void columns_kernel(std::int64_t rows, std::int64_t cols, T* out, T beta, F term) {
  __shared__ T sums[block_size];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t j = std::int64_t{blockIdx.x} * 32 + lane;
  T sum = 0;
  if (j < cols)
    for (std::int64_t i = warp; i < rows; i += block_size / 32) sum += term(i, j);
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || j >= cols) return;
  T total = beta == 0 ? T(0) : beta * out[j];  // with beta 0 the old value may be NaN
  for (int w = 0; w < block_size / 32; ++w) total += sums[w * 32 + lane];
  out[j] = total;
}

/// Block i belongs to token i. If no earlier token has its id, the block adds the gradients of all tokens of
/// that id to the table's row, in their order; else it has nothing to do. Each row has one writer, so no
/// atomics are needed.
template <class T>
__global__ void embedding_backward_kernel(std::int64_t tokens, std::int64_t cols, View<Arithmetic<T>> dtable,
                                          std::int64_t vocabulary, View<T> dy, View<std::int32_t> ids) {
  const std::int64_t mine = blockIdx.x;
  const std::int32_t id = ids.data[mine];
  if (id < 0 || id >= vocabulary) return;
  bool seen = false;
  for (std::int64_t i = threadIdx.x; i < mine && !seen; i += blockDim.x) seen = ids.data[i] == id;
  if (__syncthreads_or(seen)) return;

  __shared__ std::int32_t next[block_size];  // the ids of the tokens [begin, begin + block_size)
  for (std::int64_t column = 0; column < cols; column += blockDim.x) {
    const std::int64_t j = column + threadIdx.x;
    Arithmetic<T> sum = j < cols ? dtable.row(id)[j] : Arithmetic<T>(0);
    for (std::int64_t begin = mine; begin < tokens; begin += block_size) {
      __syncthreads();  // all threads have read the ids of the round before
      if (begin + threadIdx.x < tokens) next[threadIdx.x] = ids.data[begin + threadIdx.x];
      __syncthreads();
      const int count = static_cast<int>(min(std::int64_t{block_size}, tokens - begin));
      for (int i = 0; i < count; ++i)
        if (next[i] == id && j < cols) sum += dy.row(begin + i)[j];
    }
    if (j < cols) dtable.row(id)[j] = sum;
  }
}

constexpr std::size_t most_inputs = 64;

template <class T>
struct Inputs {
  const T* of[most_inputs];
  int count;
};

/// A thread reads its element of all inputs before it writes, because `out` may be one of them.
template <class T, bool largest>
__global__ void reduce_kernel(std::int64_t size, T* out, Inputs<T> inputs) {
  for_each_element(size, [&](std::int64_t e) {
    Arithmetic<T> result = inputs.of[0][e];
    for (int k = 1; k < inputs.count; ++k) {
      const Arithmetic<T> x = inputs.of[k][e];
      if constexpr (largest)
        result = result >= x || result != result ? result : x;
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

struct Gpu {
  template <class F, class... T>
  static void each(const Tensor& y, const F& f, const View<T>&... x) {
    std::int64_t rows = y.rows(), cols = y.cols();
    if (((x.ld == cols) && ...)) cols *= std::exchange(rows, 1);  // without gaps the matrix is one long row
    launch(y, Grid(blocks_for(cols), rows), each_kernel<F, T...>, rows, cols, f, x...);
  }
  template <class F>
  static void rows(const Tensor& y, std::int64_t n, std::int64_t, const F& f) {
    launch(y, n, rows_kernel<F>, f);
  }
  template <class T, class F>
  static void columns(const Tensor& out, T beta, std::int64_t n, const F& term) {
    launch(out, (out.cols() + 31) / 32, columns_kernel<T, F>, n, out.cols(), out.data<T>(), beta, term);
  }
};

int blas_size(std::int64_t n) {
  expect(n <= INT_MAX,
         [&] { return format("matmul: cuBLAS counts to {}, this matrix has a side of {}", INT_MAX, n); });
  return static_cast<int>(n);
}

cudaDataType_t type(const Tensor& x) {
  return x.dtype() == DType::f64 ? CUDA_R_64F : x.dtype() == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}
/// How cuBLAS multiplies and adds: bf16 on tensor cores with sums in f32; f32 as it is, or with operands that
/// are rounded to TF32's 11 bits where the device allows it.
cublasComputeType_t compute_type(DType dtype, const CudaDevice& device) {
  if (dtype == DType::f64) return CUBLAS_COMPUTE_64F_PEDANTIC;
  if (dtype == DType::bf16) return CUBLAS_COMPUTE_32F;
  return device.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F_PEDANTIC;
}

struct CudaKernels final : Mathematics<Gpu> {
  /// cuBLAS reads matrices by columns. A row-major matrix that is read so is its own transpose, with the same
  /// leading dimension, and the row-major C = op(A) op(B) becomes C^T = op(B)^T op(A)^T. Therefore the
  /// operands change places, and the sizes m and n with them; the flags of transposition stay as they are.
  void gemm(const Stack& c, double beta, const Stack& a, bool ta, const Stack& b, bool tb, std::int64_t outer,
            std::int64_t inner) const override {
    const std::int64_t terms = ta ? a.rows : a.cols;
    if (c.rows * c.cols == 0) return;
    if (terms ==
        0) {  // cuBLAS refuses a leading dimension of 0; it is one product, since every head has columns
      if (beta == 0)
        c.of.zero();
      else
        scale(c.of, c.of, beta);
      return;
    }
    const CudaDevice& device = cuda_device(c.of.device());
    const auto flag = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    const int m = blas_size(c.cols), n = blas_size(c.rows), k = blas_size(terms), count = blas_size(inner);
    const int lda = blas_size(a.of.ld()), ldb = blas_size(b.of.ld()), ldc = blas_size(c.of.ld());
    arithmetic(arithmetic(a.of.dtype()), [&]<class A>(A) {
      const A one = 1, keep = static_cast<A>(beta);  // of the type that is computed in
      for (std::int64_t o = 0; o < outer; ++o) {
        const auto at = [o](const Stack& s) {
          return s.of.raw() + (s.first + o * s.outer) * static_cast<std::int64_t>(size_of(s.of.dtype()));
        };
        CUBLAS_CHECK(cublasGemmStridedBatchedEx(device.blas(), flag(tb), flag(ta), m, n, k, &one, at(b),
                                                type(b.of), ldb, b.inner, at(a), type(a.of), lda, a.inner,
                                                &keep, at(c), type(c.of), ldc, c.inner, count,
                                                compute_type(a.of.dtype(), device), CUBLAS_GEMM_DEFAULT));
      }
    });
  }

  void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) const override {
    floating(dy.dtype(), [&]<class T>(T) {
      launch(dtable, dy.rows(), embedding_backward_kernel<T>, dy.rows(), dy.cols(),
             View<Arithmetic<T>>(dtable), dtable.rows(), View<T>(dy), View<std::int32_t>(ids));
    });
  }

  void reduce(const Tensor& out, const std::vector<Tensor>& inputs, Reduce how) const override {
    expect(inputs.size() <= most_inputs, [&] {
      return format("reduce: {} ranks share this GPU, {} are the most", inputs.size(), most_inputs);
    });
    with_type(out.dtype(), [&]<class T>(T) { reduce_typed<T>(out, inputs, how); });
  }
};

}  // namespace

const Kernels& cuda_kernels() {
  static const CudaKernels kernels;
  return kernels;
}

}  // namespace tessera
