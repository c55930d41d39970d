// Slice: which rows and columns of a whole matrix a shard holds. Initialisation, gathers, dumps, checkpoints
// and the position in an error message read this and nothing else.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tensor/random.hpp"
#include "tensor/tensor.hpp"

namespace tessera {

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// Part `index` of `parts` equal parts of [0, size). Throws UsageError where they do not divide it.
Range part(std::int64_t size, int index, int parts);

struct Slice {
  std::int64_t whole_rows, whole_cols;
  std::vector<Range> row_ranges, col_ranges;  // in the shard's own order

  static Slice whole(std::int64_t rows, std::int64_t cols);
  static Slice nothing_of(std::int64_t rows, std::int64_t cols) { return {rows, cols, {}, {}}; }
  static Slice rows(std::int64_t rows, std::int64_t cols, int index, int parts);     ///< Shard<0>
  static Slice columns(std::int64_t rows, std::int64_t cols, int index, int parts);  ///< Shard<1>

  std::int64_t local_rows() const;
  std::int64_t local_cols() const;
  /// Where element (row, col) of the shard lies in the whole.
  std::pair<std::int64_t, std::int64_t> locate(std::int64_t row, std::int64_t col) const;
  /// The shard, copied out of a whole; and the reverse. Shapes must fit. Any device.
  Tensor extract(const Tensor& whole) const;
  void insert(const Tensor& whole, const Tensor& shard) const;
  /// What two slices of one whole have in common, twice in the same order: as a slice of a's shard, and as a
  /// slice of b's shard.
  static std::pair<Slice, Slice> overlap(const Slice& a, const Slice& b);
  bool operator==(const Slice&) const = default;
};

enum class Fill {
  uniform,  ///< [-1, 1) times scale
  integer   ///< the integers of [-scale, scale]
};

/// This slice of the matrix `name`, whose every element depends on (seed, name, its index in the whole)
/// alone. Made on the host, then copied to this thread's device.
Tensor generate(std::uint64_t seed, std::string_view name, const Slice& slice, DType dtype, Fill fill,
                double scale);

}  // namespace tessera
