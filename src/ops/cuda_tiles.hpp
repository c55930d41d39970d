// Products of tiles: the inner loops of attention on a GPU. Their factors go through shared memory, and their
// results stay in the registers of a block's threads.
#pragma once

#include "ops/functions.hpp"

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

/// A product of two tiles, side x side. Thread (y, x) computes the elements in rows 4y to 4y + 3 and columns
/// 4x to 4x + 3, so that 8 numbers read make 16 products. f64 takes twice the room, hence smaller tiles.
template <class T>
struct Tile {
  static constexpr int side = sizeof(T) == 4 ? 64 : 32, lanes = side / 4, threads = lanes * lanes;
  /// How many blocks should have their registers on one multiprocessor, if each sums `blocks` tiles.
  static constexpr int resident(int blocks) { return sizeof(T) == 4 && blocks == 1 ? 2 : 1; }
  // left[k] and right[k] are the factors of the k-th terms, p the transpose of the left operand of mix. With
  // 4 numbers more a row, the rows lie in different banks.
  alignas(16) T left[depth][side + 4], right[depth][side + 4], p[side][side + 4];

  __device__ static int y() { return static_cast<int>(threadIdx.x) / lanes; }
  __device__ static int x() { return static_cast<int>(threadIdx.x) % lanes; }
  __device__ static void add_products(T (&c)[4][4], const T* a, const T* b) {
    own_elements([&](int r, int s) { c[r][s] += a[4 * y() + r] * b[4 * x() + s]; });
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
                      Tile<T>& tile) {
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
                    Tile<T>& tile) {
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

}  // namespace tessera
