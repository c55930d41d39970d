#include "tensor/slice.hpp"

#include <algorithm>

#include "tensor/error.hpp"

namespace tessera {

namespace {

std::int64_t total(const std::vector<Range>& ranges) {
  std::int64_t sum = 0;
  for (const Range& range : ranges) sum += range.size();
  return sum;
}

std::int64_t index_in_whole(const std::vector<Range>& ranges, std::int64_t local) {
  if (local < 0)
    throw Error(format("index {} lies before its slice", local));  // expect would build the text each time
  for (const Range& range : ranges) {
    if (local < range.size()) return range.begin + local;
    local -= range.size();
  }
  throw Error(format("index {} lies beyond its slice", local));
}

/// What lies in both lists of ranges, as places in the one list and as places in the other.
std::pair<std::vector<Range>, std::vector<Range>> common(const std::vector<Range>& a,
                                                         const std::vector<Range>& b) {
  std::pair<std::vector<Range>, std::vector<Range>> both;
  std::int64_t before_a = 0;
  for (const Range& x : a) {
    std::int64_t before_b = 0;
    for (const Range& y : b) {
      const std::int64_t begin = std::max(x.begin, y.begin), end = std::min(x.end, y.end);
      if (begin < end) {
        both.first.push_back({before_a + begin - x.begin, before_a + end - x.begin});
        both.second.push_back({before_b + begin - y.begin, before_b + end - y.begin});
      }
      before_b += y.size();
    }
    before_a += x.size();
  }
  return both;
}

/// Calls visit(view of the whole, view of the shard) for each block that is one piece in both.
template <class Visit>
void for_each_block(const Slice& slice, const Tensor& whole, const Tensor& shard, const Visit& visit) {
  expect(
      whole.rows() == slice.whole_rows && whole.cols() == slice.whole_cols,
      format("the slice is of ({}, {}), the whole is {}", slice.whole_rows, slice.whole_cols, shape(whole)));
  expect(shard.rows() == slice.local_rows() && shard.cols() == slice.local_cols(),
         format("the slice holds ({}, {}), the shard is {}", slice.local_rows(), slice.local_cols(),
                shape(shard)));
  std::int64_t row = 0;
  for (const Range& r : slice.row_ranges) {
    std::int64_t col = 0;
    for (const Range& c : slice.col_ranges) {
      visit(whole.row_range(r.begin, r.end).column_range(c.begin, c.end),
            shard.row_range(row, row + r.size()).column_range(col, col + c.size()));
      col += c.size();
    }
    row += r.size();
  }
}

}  // namespace

Range part(std::int64_t size, int index, int parts) {
  if (size % parts != 0) throw UsageError(format("{} ranks do not divide {}", parts, size));
  const std::int64_t each = size / parts;
  return {index * each, (index + 1) * each};
}

Slice Slice::whole(std::int64_t rows, std::int64_t cols) { return {rows, cols, {{0, rows}}, {{0, cols}}}; }

Slice Slice::rows(std::int64_t rows, std::int64_t cols, int index, int parts) {
  return {rows, cols, {part(rows, index, parts)}, {{0, cols}}};
}

Slice Slice::columns(std::int64_t rows, std::int64_t cols, int index, int parts) {
  return {rows, cols, {{0, rows}}, {part(cols, index, parts)}};
}

std::int64_t Slice::local_rows() const { return total(row_ranges); }
std::int64_t Slice::local_cols() const { return total(col_ranges); }

std::pair<std::int64_t, std::int64_t> Slice::locate(std::int64_t row, std::int64_t col) const {
  return {index_in_whole(row_ranges, row), index_in_whole(col_ranges, col)};
}

std::pair<Slice, Slice> Slice::overlap(const Slice& a, const Slice& b) {
  const auto [rows_a, rows_b] = common(a.row_ranges, b.row_ranges);
  const auto [cols_a, cols_b] = common(a.col_ranges, b.col_ranges);
  return {{a.local_rows(), a.local_cols(), rows_a, cols_a}, {b.local_rows(), b.local_cols(), rows_b, cols_b}};
}

Tensor Slice::extract(const Tensor& whole) const {
  Tensor shard = Tensor::empty(local_rows(), local_cols(), whole.dtype(), whole.device());
  for_each_block(*this, whole, shard, [](const Tensor& from, const Tensor& to) { to.copy_from(from); });
  return shard;
}

void Slice::insert(const Tensor& whole, const Tensor& shard) const {
  for_each_block(*this, whole, shard, [](const Tensor& to, const Tensor& from) { to.copy_from(from); });
}

namespace {

template <class T>
void fill(const Tensor& host, const Random& random, const Slice& slice, Fill fill, double scale) {
  T* element = host.data<T>();
  for (const Range& rows : slice.row_ranges)
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (const Range& cols : slice.col_ranges)
        for (std::int64_t col = cols.begin; col < cols.end; ++col) {
          const auto index = static_cast<std::uint64_t>(row * slice.whole_cols + col);
          *element++ =
              static_cast<T>(fill == Fill::uniform ? scale * random.uniform(index)
                                                   : random.small_integer(index, static_cast<int>(scale)));
        }
}

}  // namespace

Tensor generate(std::uint64_t seed, std::string_view name, const Slice& slice, DType dtype, Fill how,
                double scale) {
  const Random random(seed, name);
  const Tensor shard = Tensor::empty(slice.local_rows(), slice.local_cols(), dtype);
  const Tensor staged = Tensor::empty(shard.rows(), shard.cols(), dtype, Device::host());
  with_type(dtype, [&]<class T>(T) { fill<T>(staged, random, slice, how, scale); });
  shard.copy_from(staged);
  return shard;
}

}  // namespace tessera
