// The mathematics on a GPU: GEMM comes from cuBLAS, threads compute elements, warps and blocks compute rows.
// Every sum has a fixed order and uses no atomics, so that a run repeats bit by bit.
#include <algorithm>
#include <climits>
#include <utility>

#include "ops/cuda_launch.hpp"
#include "ops/mathematics.hpp"

namespace tessera {

namespace {

/// The blocks for n independent elements. Beyond 2^16 blocks a thread takes several elements, a grid apart.
std::int64_t blocks_for(std::int64_t n) {
  return std::min<std::int64_t>((n + block_size - 1) / block_size, 65536);
}

/// Calls body(i) for this thread's share of [0, n).
template <class Index, class Body>
__device__ void for_each_element(Index n, const Body& body) {
  const Index stride = Index(gridDim.x) * Index(blockDim.x);
  for (Index i = Index(blockIdx.x) * Index(blockDim.x) + Index(threadIdx.x); i < n; i += stride) body(i);
}

/// Row i belongs to team i of `warps` warps, of which a block may have several.
template <int warps, int held, class F>
__global__ void rows_kernel(std::int64_t rows, F f) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / (32 * warps);
  if (i < rows) f(Team<warps, held>{}, i);  // a team goes or stays as a whole
}

/// Several elements side by side, which are one load and one store.
template <class T, int width>
struct alignas(width * sizeof(T) < 16 ? width * sizeof(T) : 16) Pack {
  T at[width];
};
template <class F>
constexpr int outputs_of = [] {
  if constexpr (requires { F::outputs; })
    return F::outputs;
  else
    return 1;
}();

/// Rows of blocks take rows of elements. A single index would have to be split into i and j by a division for
/// each element, which costs more than the memory access itself. f computes on copies in registers; loads
/// whose value it does not use, and those are all of a plain output, are left out by the compiler.
template <int width, class Index, class F, class... T>
__global__ void each_kernel(std::int64_t rows, Index packs, F f, View<T>... x) {
  for (std::int64_t i = blockIdx.y; i < rows; i += gridDim.y)
    for_each_element(packs, [&](Index j) {
      [&](Pack<T, width>... own) {
        for (int k = 0; k < width; ++k) f(own.at[k]...);
        int n = 0;
        ((n++ < outputs_of<F> ? void(reinterpret_cast<Pack<T, width>*>(x.row(i))[j] = own) : void()), ...);
      }(reinterpret_cast<const Pack<T, width>*>(x.row(i))[j]...);
    });
}

/// The 32 columns of a warp lie side by side in memory. A row of blocks takes `slice` rows of elements and
/// writes a row of sums. Each of a block's 8 warps takes every eighth row, and their sums are added in the
/// order of the warps.
template <class T, class F>
__global__ void columns_kernel(std::int64_t rows, std::int64_t slice, std::int64_t cols, T* out, T beta,
                               F term) {
  __shared__ T sums[block_size];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t j = std::int64_t{blockIdx.x} * 32 + lane, begin = blockIdx.y * slice;
  const std::int64_t end = min(begin + slice, rows);
  out += blockIdx.y * cols;
  T sum = 0;
  if (j < cols)
#pragma unroll 4
    for (std::int64_t i = begin + warp; i < end; i += block_size / 32) sum += term(i, j);
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

constexpr int most_parts = 240;  // the parameters of a kernel have room for 4 KiB

template <class T>
struct Parts {
  const T* of[most_parts];
  std::int64_t sizes[most_parts];
  static_assert(sizeof(of) + sizeof(sizes) <= 4000);
};

/// Row y of blocks has part y, and block x the x-th of the pieces of each part.
template <class T>
__global__ void squares_kernel(Parts<T> parts, double* sums) {
  const std::int64_t size = parts.sizes[blockIdx.y], pieces = gridDim.x;
  const std::int64_t begin = size * blockIdx.x / pieces, end = size * (blockIdx.x + 1) / pieces;
  const T* x = parts.of[blockIdx.y] + begin;
  const double sum =
      Team<block_size / 32>{}.sum(end - begin, [&](std::int64_t j) { return double(x[j]) * double(x[j]); });
  if (threadIdx.x == 0) sums[blockIdx.y * pieces + blockIdx.x] = sum;
}

struct Gpu {
  template <class F, class... T>
  static void each(const Tensor& y, const F& f, const View<T>&... x) {
    std::int64_t rows = y.rows(), cols = y.cols();
    if (((x.ld == cols) && ...)) cols *= std::exchange(rows, 1);  // without gaps the matrix is one long row
    constexpr int width = 4;
    const bool aligned = ((reinterpret_cast<std::uintptr_t>(x.data) % alignof(Pack<T, width>) == 0 &&
                           (rows == 1 || x.ld % width == 0)) &&
                          ...);
    if (aligned && cols % width == 0 && cols / width < INT_MAX / 2)
      launch(y, Grid(blocks_for(cols / width), rows), each_kernel<width, int, F, T...>, rows,
             static_cast<int>(cols / width), f, x...);
    else
      launch(y, Grid(blocks_for(cols), rows), each_kernel<1, std::int64_t, F, T...>, rows, cols, f, x...);
  }
  template <class F>
  static void rows(const Tensor& y, std::int64_t n, std::int64_t cols, const F& f) {
    expect(cols <= INT_MAX, [&] { return format("a row of {} elements: {} are the most", cols, INT_MAX); });
    // Up to 4096 elements are read from memory once, into registers: 8 of each lane, of as many warps as that
    // takes. More are read again for each fold, by a block so large that few rows fill the cache.
    constexpr int held = 8;
    if (cols <= 32 * held)
      launch(y, (n + 7) / 8, rows_kernel<1, held, F>, n, f);
    else if (cols <= 4 * 32 * held)
      launch(y, {n, 1, 4 * 32}, rows_kernel<4, held, F>, n, f);
    else if (cols <= 16 * 32 * held)
      launch(y, {n, 1, 16 * 32}, rows_kernel<16, held, F>, n, f);
    else
      launch(y, {n, 1, 32 * 32}, rows_kernel<32, 0, F>, n, f);
  }
  /// Up to 64 rows of blocks sum a slice each. Then their sums are added in the same way, in their order.
  template <class T, class F>
  static void columns(const Tensor& out, T beta, std::int64_t n, const F& term) {
    const std::int64_t cols = out.cols(), slices = std::clamp<std::int64_t>(n / 128, 1, 64);
    const std::int64_t slice = (n + slices - 1) / slices, blocks = (cols + 31) / 32;
    if (slices == 1) return launch(out, blocks, columns_kernel<T, F>, n, n, cols, out.data<T>(), beta, term);
    const Tensor sums = Tensor::empty(slices, cols, out.dtype(), out.device());
    launch(out, Grid(blocks, slices), columns_kernel<T, F>, n, slice, cols, sums.data<T>(), T(0), term);
    launch(out, blocks, columns_kernel<T, Term<T>>, slices, slices, cols, out.data<T>(), beta, Term<T>{sums});
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
    if (terms == 0) {  // cuBLAS refuses a leading dimension of 0. Every head has columns: it is one product.
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

  double sum_of_squares(const std::vector<Tensor>& parts) const override {
    constexpr std::size_t pieces = 64;
    const Tensor sums =
        Tensor::empty(static_cast<std::int64_t>(parts.size()), pieces, DType::f64, parts[0].device());
    floating(parts[0].dtype(), [&]<class T>(T) {
      for (std::size_t first = 0; first < parts.size(); first += most_parts) {
        const std::size_t count = std::min<std::size_t>(most_parts, parts.size() - first);
        Parts<T> some{};
        for (std::size_t i = 0; i < count; ++i) {
          some.of[i] = parts[first + i].data<T>();
          some.sizes[i] = parts[first + i].size();
        }
        launch(sums, Grid(pieces, static_cast<std::int64_t>(count)), squares_kernel<T>, some,
               sums.data<double>() + first * pieces);
      }
    });
    double total = 0;
    for (const double sum : sums.values()) total += sum;
    return total;
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
