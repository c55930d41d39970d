// The kernels that look at a whole row or column at once. Each sum runs in an order that depends on the shape
// alone.
#include "ops/cuda_launch.hpp"

namespace tessera::gpu {

namespace {

/// A warp's 32 columns lie side by side in memory; the block's 8 warps take every eighth row, and their sums
/// are added in the order of the warps.
template <class T>
__global__ void sum_rows_kernel(std::int64_t rows, std::int64_t cols, View<T> out, T beta, View<const T> x) {
  __shared__ T sums[block_size];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t j = std::int64_t{blockIdx.x} * 32 + lane;
  T sum = 0;
  if (j < cols)
    for (std::int64_t i = warp; i < rows; i += block_size / 32) sum += x.row(i)[j];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || j >= cols) return;
  T total = beta == 0 ? T(0) : beta * out.data[j];  // what stands there may be NaN when beta is 0
  for (int w = 0; w < block_size / 32; ++w) total += sums[w * 32 + lane];
  out.data[j] = total;
}

template <class T>
__global__ void embedding_kernel(std::int64_t size, std::int64_t cols, View<T> y,
                                 View<const std::int32_t> ids, View<const T> table, std::int64_t vocabulary) {
  for_each_element(size, [&](std::int64_t e) {
    const std::int64_t i = e / cols, j = e % cols, id = ids.data[i];
    y.row(i)[j] = 0 <= id && id < vocabulary ? table.row(id)[j] : T(0);
  });
}

/// Block i belongs to token i. If no earlier token has its id, the block adds the gradients of all tokens of
/// that id to the table's row, in their order; else it has nothing to do. One writer a row, so no atomics.
template <class T>
__global__ void embedding_backward_kernel(std::int64_t tokens, std::int64_t cols, View<T> dtable,
                                          std::int64_t vocabulary, View<const T> dy,
                                          View<const std::int32_t> ids) {
  const std::int64_t mine = blockIdx.x;
  const std::int32_t id = ids.data[mine];
  if (id < 0 || id >= vocabulary) return;
  bool seen = false;
  for (std::int64_t i = threadIdx.x; i < mine && !seen; i += blockDim.x) seen = ids.data[i] == id;
  if (__syncthreads_or(seen)) return;

  __shared__ std::int32_t next[block_size];  // the ids of the tokens [begin, begin + block_size)
  for (std::int64_t column = 0; column < cols; column += blockDim.x) {
    const std::int64_t j = column + threadIdx.x;
    T sum = j < cols ? dtable.row(id)[j] : T(0);
    for (std::int64_t begin = mine; begin < tokens; begin += block_size) {
      __syncthreads();  // all have read the ids before
      if (begin + threadIdx.x < tokens) next[threadIdx.x] = ids.data[begin + threadIdx.x];
      __syncthreads();
      const int count = static_cast<int>(min(std::int64_t{block_size}, tokens - begin));
      for (int i = 0; i < count; ++i)
        if (next[i] == id && j < cols) sum += dy.row(begin + i)[j];
    }
    if (j < cols) dtable.row(id)[j] = sum;
  }
}

/// All threads get fold(..., fold(v0, v128)...), a tree that does not depend on timing.
template <class T, class Fold>
__device__ T fold_block(T value, const Fold& fold) {
  __shared__ T values[block_size];
  values[threadIdx.x] = value;
  for (int half = block_size / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) values[threadIdx.x] = fold(values[threadIdx.x], values[threadIdx.x + half]);
  }
  __syncthreads();
  const T result = values[0];
  __syncthreads();  // the next fold may write
  return result;
}

template <class T>
__global__ void cross_entropy_kernel(std::int64_t cols, View<T> loss, View<T> probabilities,
                                     View<const T> logits, View<const std::int32_t> targets) {
  const std::int64_t i = blockIdx.x;
  const T* x = logits.row(i);
  T* p = probabilities.row(i);
  T largest = -INFINITY, sum = 0;
  for (std::int64_t j = threadIdx.x; j < cols; j += blockDim.x) largest = max(largest, x[j]);
  largest = fold_block(largest, [](T a, T b) { return max(a, b); });  // keeps exp from overflowing
  for (std::int64_t j = threadIdx.x; j < cols; j += blockDim.x) sum += p[j] = exp(x[j] - largest);
  sum = fold_block(sum, [](T a, T b) { return a + b; });
  for (std::int64_t j = threadIdx.x; j < cols; j += blockDim.x) p[j] /= sum;  // the thread's own p_j
  if (threadIdx.x != 0) return;
  const std::int32_t target = targets.data[i];
  loss.row(i)[0] = 0 <= target && target < cols ? log(sum) - (x[target] - largest) : T(NAN);
}

template <class T>
__global__ void cross_entropy_backward_kernel(std::int64_t size, std::int64_t cols, View<T> dlogits,
                                              View<const T> probabilities, View<const std::int32_t> targets,
                                              T factor) {
  for_each_element(size, [&](std::int64_t e) {
    const std::int64_t i = e / cols, j = e % cols;
    dlogits.row(i)[j] = factor * (probabilities.row(i)[j] - (j == targets.data[i] ? T(1) : T(0)));
  });
}

using Ids = View<const std::int32_t>;

}  // namespace

void sum_rows(const Tensor& out, double beta, const Tensor& x) {
  floating(out.dtype(), [&]<class T>(T) {
    launch(out, (x.cols() + 31) / 32, sum_rows_kernel<T>, x.rows(), x.cols(), View<T>(out),
           static_cast<T>(beta), View<const T>(x));
  });
}

void embedding(const Tensor& y, const Tensor& ids, const Tensor& table) {
  floating(y.dtype(), [&]<class T>(T) {
    launch(y, blocks_for(y.size()), embedding_kernel<T>, y.size(), y.cols(), View<T>(y), Ids(ids),
           View<const T>(table), table.rows());
  });
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  floating(dy.dtype(), [&]<class T>(T) {
    launch(dtable, dy.rows(), embedding_backward_kernel<T>, dy.rows(), dy.cols(), View<T>(dtable),
           dtable.rows(), View<const T>(dy), Ids(ids));
  });
}

void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                   const Tensor& targets) {
  floating(logits.dtype(), [&]<class T>(T) {
    launch(logits, logits.rows(), cross_entropy_kernel<T>, logits.cols(), View<T>(loss),
           View<T>(probabilities), View<const T>(logits), Ids(targets));
  });
}

void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities, const Tensor& targets,
                            double factor) {
  floating(dlogits.dtype(), [&]<class T>(T) {
    launch(dlogits, blocks_for(dlogits.size()), cross_entropy_backward_kernel<T>, dlogits.size(),
           dlogits.cols(), View<T>(dlogits), View<const T>(probabilities), Ids(targets),
           static_cast<T>(factor));
  });
}

}  // namespace tessera::gpu
