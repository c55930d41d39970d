// Products of tiles: the inner loops of attention on a GPU. Their factors go through shared memory, and their
// results stay in the registers of a block's threads. bf16 is multiplied by tensor cores where there are
// some.
#pragma once

#include "ops/functions.hpp"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#include <mma.h>
#define TESSERA_TENSOR_CORES
#endif

namespace tessera {

inline constexpr int depth = 32;  // how many terms of a product lie in shared memory at a time

/// Registers have no addresses: arrays in them need loops that are unrolled.
template <int count = 4, class F>
__device__ void unrolled(const F& f) {
#pragma unroll
  for (int i = 0; i < count; ++i) f(i);
}

template <class F>
__device__ void own_elements(const F& f) {  // the 4 x 4 of a thread
  unrolled([&](int r) { unrolled([&](int s) { f(r, s); }); });
}

/// The threads of a product of two tiles of numbers that are summed as T. Thread (y, x) has the elements in
/// rows 4y to 4y + 3 and columns 4x to 4x + 3. f64 takes twice the room, hence smaller tiles.
template <class T>
struct TileThreads {
  static constexpr int side = sizeof(T) == 4 ? 64 : 32, lanes = side / 4, threads = lanes * lanes;
  /// How many blocks should have their registers on one multiprocessor, if each sums `blocks` tiles.
  static constexpr int resident(int blocks) { return sizeof(T) == 4 && blocks == 1 ? 2 : 1; }
  __device__ static int y() { return static_cast<int>(threadIdx.x) / lanes; }
  __device__ static int x() { return static_cast<int>(threadIdx.x) % lanes; }
};

/// The shared memory of a product of tiles whose numbers are stored as S. 8 numbers read make 16 products.
template <class S, class T = Arithmetic<S>>
struct Tile : TileThreads<T> {
  using TileThreads<T>::side;
  // left[k] and right[k] are the factors of the k-th terms, p the transpose of the left operand of mix. With
  // 4 numbers more a row, the rows lie in different banks.
  alignas(16) T left[depth][side + 4], right[depth][side + 4], p[side][side + 4];

  __device__ static void add_products(T (&c)[4][4], const T* a, const T* b) {
    own_elements([&](int r, int s) { c[r][s] += a[4 * Tile::y() + r] * b[4 * Tile::x() + s]; });
  }
};

/// The rows of one head in one sequence. Beyond its ends there are zeros.
template <class S>
struct Head {
  S* data;
  std::int64_t ld;
  int rows, cols;
  __device__ Arithmetic<S> at(int i, int j) const {
    return i < rows && j < cols ? Arithmetic<S>(data[i * ld + j]) : Arithmetic<S>(0);
  }
};

/// c = A B^T: products of the rows of a from first_a on with those of b from first_b on.
template <class S, class T>
__device__ void score(T (&c)[4][4], const Head<S>& a, int first_a, const Head<S>& b, int first_b,
                      Tile<S>& tile) {
  own_elements([&](int r, int s) { c[r][s] = 0; });
  for (int column = 0; column < a.cols; column += depth) {
    __syncthreads();  // all have used what lay there
    for (int e = static_cast<int>(threadIdx.x); e < tile.side * depth; e += tile.threads) {
      const int i = e / depth, k = e % depth;
      tile.left[k][i] = a.at(first_a + i, column + k);
      tile.right[k][i] = b.at(first_b + i, column + k);
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < depth; ++k) tile.add_products(c, tile.left[k], tile.right[k]);
  }
}

/// c += P B with the rows of b from `first` on, and its columns from `column` on.
template <int blocks, class S, class T>
__device__ void mix(T (&c)[blocks][4][4], const T (&p)[4][4], const Head<S>& b, int first, int column,
                    Tile<S>& tile) {
  __syncthreads();  // the last product has used tile.p
  own_elements([&](int r, int s) { tile.p[4 * tile.x() + s][4 * tile.y() + r] = p[r][s]; });
  for (int begin = 0; begin < tile.side; begin += depth)
    unrolled<blocks>([&](int n) {
      __syncthreads();
      for (int e = static_cast<int>(threadIdx.x); e < tile.side * depth; e += tile.threads) {
        const int k = e / tile.side, j = e % tile.side;
        tile.right[k][j] = b.at(first + begin + k, column + n * tile.side + j);
      }
      __syncthreads();
#pragma unroll 8
      for (int k = 0; k < depth; ++k) tile.add_products(c[n], tile.p[begin + k], tile.right[k]);
    });
}

#ifdef TESSERA_TENSOR_CORES
/// The factors of a product on tensor cores, and the product. A warp computes 16 x 32 of it, and leaves it
/// here, since no thread knows which elements its registers hold meanwhile.
template <>
struct Tile<bf16> : TileThreads<float> {
  // Whole rows of the factors; with 16 bytes more each, rows lie in different banks.
  alignas(32) bf16 left[side][side + 8], right[side][side + 8];
  alignas(32) float product[side][side + 4];

  __device__ static void load(bf16 (&to)[side][side + 8], const Head<bf16>& from, int row, int column) {
    const bool aligned = (from.ld | from.cols | reinterpret_cast<std::intptr_t>(from.data) / 2) % 8 == 0;
    aligned ? load_packs<8>(to, from, row, column) : load_packs<1>(to, from, row, column);
  }
  template <int width>
  __device__ static void load_packs(bf16 (&to)[side][side + 8], const Head<bf16>& from, int row, int column) {
    struct alignas(width * sizeof(bf16)) Pack {
      bf16 at[width];
    };
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x) * width; e < side * side; e += threads * width) {
      const int i = row + e / side, j = column + e % side;
      const auto* pack = reinterpret_cast<const Pack*>(from.data + i * from.ld + j);
      *reinterpret_cast<Pack*>(&to[e / side][e % side]) = i < from.rows && j < from.cols ? *pack : Pack{};
    }
  }
  /// c += left right, or left right^T. All threads have written the factors when it begins, and may write
  /// others when it ends.
  template <class Order>
  __device__ void add_product(float (&c)[4][4]) {
    using namespace nvcuda::wmma;
    const auto address = [](const bf16* x) { return reinterpret_cast<const __nv_bfloat16*>(x); };
    const int warp = static_cast<int>(threadIdx.x) / 32, i = warp / 2 * 16, j = warp % 2 * 32;
    fragment<accumulator, 16, 16, 16, float> sums[2];
    for (auto& sum : sums) fill_fragment(sum, 0);
    __syncthreads();  // the factors lie there, and all have read the last product
#pragma unroll
    for (int k = 0; k < side; k += 16) {
      fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> a;
      load_matrix_sync(a, address(&left[i][k]), side + 8);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int column = j + 16 * n;
        constexpr bool transposed = std::is_same_v<Order, col_major>;
        fragment<matrix_b, 16, 16, 16, __nv_bfloat16, Order> b;
        load_matrix_sync(b, address(transposed ? &right[column][k] : &right[k][column]), side + 8);
        mma_sync(sums[n], a, b, sums[n]);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) store_matrix_sync(&product[i][j + 16 * n], sums[n], side + 4, mem_row_major);
    __syncthreads();
    own_elements([&](int r, int s) { c[r][s] += product[4 * y() + r][4 * x() + s]; });
  }
};

__device__ inline void score(float (&c)[4][4], const Head<bf16>& a, int first_a, const Head<bf16>& b,
                             int first_b, Tile<bf16>& tile) {
  own_elements([&](int r, int s) { c[r][s] = 0; });
  for (int column = 0; column < a.cols; column += tile.side) {
    tile.load(tile.left, a, first_a, column);
    tile.load(tile.right, b, first_b, column);
    tile.add_product<nvcuda::wmma::col_major>(c);
  }
}

template <int blocks>
__device__ void mix(float (&c)[blocks][4][4], const float (&p)[4][4], const Head<bf16>& b, int first,
                    int column, Tile<bf16>& tile) {
  own_elements([&](int r, int s) { tile.left[4 * tile.y() + r][4 * tile.x() + s] = p[r][s]; });
  unrolled<blocks>([&](int n) {
    tile.load(tile.right, b, first, column + n * tile.side);
    tile.add_product<nvcuda::wmma::row_major>(c[n]);
  });
}
#endif

}  // namespace tessera
