// How kernels are started, and how the lanes of a warp or of a block sum together.
#pragma once

#include <algorithm>
#include <type_traits>

#include "tensor/device_cuda.hpp"
#include "tensor/tensor.hpp"

namespace tessera {

inline constexpr int block_size = 256;  // in threads, unless a kernel wants another
inline constexpr unsigned all_lanes = 0xffffffff;

struct Grid {
  std::int64_t blocks, rows = 1;  // CUDA allows 65535 rows of blocks
  int threads = block_size;
  Grid(std::int64_t n) : blocks(n) {}  // NOLINT: a number of blocks is a grid of one row
  Grid(std::int64_t n, std::int64_t of, int size = block_size)
      : blocks(n), rows(std::min<std::int64_t>(of, 65535)), threads(size) {}
};

/// Launches kernel(arguments) on the active stream of the tensor's device. Nothing is launched where there
/// is no work: a grid of 0 blocks is an error in CUDA.
template <class... Parameters, class... Arguments>
void launch(const Tensor& where, const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
  if (grid.blocks == 0 || grid.rows == 0) return;
  const CudaDevice& device = cuda_device(where.device());
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.rows));
  config.blockDim = static_cast<unsigned>(grid.threads);
  config.stream = device.stream();
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

/// Folds the values of `lanes` neighbouring lanes of a warp, and gives all of them the result. The tree of
/// folds does not depend on timing.
template <int lanes, class T, class Fold>
__device__ T fold_lanes(T value, const Fold& fold) {
  for (int by = lanes / 2; by > 0; by /= 2) value = fold(value, __shfl_xor_sync(all_lanes, value, by));
  return value;
}
struct Larger {  // of a NaN and a number it is the number
  template <class T>
  __device__ T operator()(T a, T b) const {
    return max(a, b);
  }
};
struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// The number of an element in its row, and of the register that holds it.
struct HeldIndex {
  int j, slot;
  __device__ operator std::int64_t() const { return j; }  // NOLINT: it is the number of an element
};

/// The team of a row (row_functions.hpp): lane t of its warps takes j = t, t + size, ... A block has one team
/// of all its warps, or one for each warp. A lane takes at most `held` elements, which it keeps in registers;
/// with 0 it takes any number, and keeps none.
template <int warps, int held = 0>
struct Team {
  static constexpr int size = 32 * warps;
  using Index = std::conditional_t<held == 0, std::int64_t, HeldIndex>;
  template <class F>
  __device__ void each(std::int64_t n, const F& f) const {
    if constexpr (held == 0) {
#pragma unroll 4
      for (int j = lane(); j < static_cast<int>(n); j += size) f(j);  // a row has less than 2^31 elements
    } else {
#pragma unroll
      for (int slot = 0; slot < held; ++slot)
        if (const int j = lane() + slot * size; j < static_cast<int>(n)) f(HeldIndex{j, slot});
    }
  }
  template <class T>
  struct Registers {
    T of[held > 0 ? held : 1];
    __device__ T& operator[](HeldIndex j) { return of[j.slot]; }
    __device__ const T& operator[](HeldIndex j) const { return of[j.slot]; }
  };
  template <class T>
  __device__ auto hold(const T* row, std::int64_t n) const {
    if constexpr (held == 0) {
      return row;
    } else {
      Registers<T> own;
      each(n, [&](HeldIndex j) { own[j] = row[j]; });
      return own;
    }
  }
  template <class T>
  __device__ auto room(T* row) const {
    if constexpr (held == 0)
      return row;
    else
      return Registers<T>{};
  }
  template <class F>
  __device__ auto sum(std::int64_t n, const F& f) const {
    using T = decltype(f(Index{}));
    T total = 0;
    each(n, [&](Index j) { total += f(j); });
    return fold(total, Sum{});
  }
  template <class F>
  __device__ auto largest(std::int64_t n, const F& f) const {
    using T = decltype(f(Index{}));
    T most = -T(INFINITY);
    each(n, [&](Index j) { most = max(most, f(j)); });
    return fold(most, Larger{});
  }
  __device__ bool first() const { return lane() == 0; }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % size; }
  template <class T, class Fold>
  __device__ static T fold(T value, const Fold& fold) {
    value = fold_lanes<32>(value, fold);
    if constexpr (warps > 1) {
      __shared__ T values[warps];
      __syncthreads();  // all have read those of the fold before
      if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value;
      __syncthreads();
      value = values[0];
      for (int w = 1; w < warps; ++w) value = fold(value, values[w]);
    }
    return value;
  }
};

}  // namespace tessera
