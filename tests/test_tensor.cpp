// What every lesson stands on: random numbers by index, slices, tensors and views, the ledger of memory and
// the pool.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "support.hpp"
#include "tensor/random.hpp"
#include "tensor/slice.hpp"
#include "tensor/tensor.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// Element (row, col) is 100 row + col: it says where it came from.
Tensor numbered(std::int64_t rows, std::int64_t cols, DType dtype = DType::f64) {
  std::vector<double> values;
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t col = 0; col < cols; ++col) values.push_back(static_cast<double>(100 * row + col));
  return Tensor::of(rows, cols, values, dtype);
}

using Values = std::vector<double>;

}  // namespace

TEST_CASE("Philox 4x32-10 gives the published answers") {
  // kat_vectors of Random123 (D. E. Shaw Research), the philox4x32 lines with 10 rounds.
  constexpr std::uint32_t ones = 0xffffffff;
  CHECK(philox({{0, 0, 0, 0}}, 0) == PhiloxBlock{{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  CHECK(philox({{ones, ones, ones, ones}}, ~std::uint64_t{0}) ==
        PhiloxBlock{{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  CHECK(philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822) ==
        PhiloxBlock{{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST_CASE("a Random is a pure function of seed, name and index, all 64 bits of each") {
  const Random random(7, "A");
  CHECK(random.bits(12345) == Random(7, "A").bits(12345));
  const std::uint64_t high = std::uint64_t{1} << 40;
  const std::set<std::uint32_t> distinct{
      random.bits(0),         random.bits(1),          random.bits(4),
      random.bits(high),      Random(8, "A").bits(0),  Random(7 + high, "A").bits(0),
      Random(7, "B").bits(0), Random(7, "AA").bits(0), Random(7, "").bits(0)};
  CHECK(distinct.size() == 9);
  // Four neighbours share one block of Philox and still differ.
  CHECK(std::set{random.bits(4), random.bits(5), random.bits(6), random.bits(7)}.size() == 4);
}

TEST_CASE("uniform numbers: range, exactness in f32, moments") {
  const Random random(1, "moments");
  constexpr int n = 100000;
  double sum = 0, squares = 0, neighbours = 0, lowest = 1, highest = -1;
  bool exact = true;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double x = random.uniform(i);
    sum += x;
    squares += x * x;
    neighbours += x * random.uniform(i + 1);
    lowest = std::min(lowest, x);
    highest = std::max(highest, x);
    exact &= static_cast<double>(static_cast<float>(x)) == x;
  }
  CHECK(exact);
  CHECK((lowest >= -1 && lowest < -0.999));
  CHECK((highest < 1 && highest > 0.999));
  // Standard deviations of the three means: sqrt(1/3n), sqrt(4/45n) and 1/(3 sqrt n). Five of each.
  CHECK(std::abs(sum / n) < 5 * std::sqrt(1.0 / 3 / n));
  CHECK(std::abs(squares / n - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
  CHECK(std::abs(neighbours / n) < 5.0 / 3 / std::sqrt(n));
}

TEST_CASE("small integers fill (-limit, limit) evenly") {
  const Random random(2, "integers");
  for (const int limit : {0, 1, 3, 8}) {
    CAPTURE(limit);
    constexpr int n = 20000;
    std::map<double, int> counts;
    for (std::uint64_t i = 0; i < n; ++i) ++counts[random.small_integer(i, limit)];
    const double each = n / (2.0 * limit + 1);
    CHECK(std::ssize(counts) == 2 * limit + 1);
    for (const auto& [x, count] : counts) {
      CHECK((x == std::round(x) && std::abs(x) <= limit));
      CHECK(std::abs(count - each) <= 5 * std::sqrt(each));
    }
  }
}

TEST_CASE("part cuts evenly, or says that it cannot") {
  CHECK(part(12, 0, 3) == Range{0, 4});
  CHECK(part(12, 2, 3) == Range{8, 12});
  CHECK(part(0, 1, 4) == Range{0, 0});
  CHECK_THROWS_WITH_AS(part(100, 0, 3), "3 ranks do not divide 100", UsageError);
}

TEST_CASE("generate makes any slice as the same elements of the whole") {
  for (const DType dtype : {DType::f32, DType::f64, DType::i32})
    for (const Fill fill : {Fill::uniform, Fill::integer})
      for (const auto& [rows, cols] : {std::pair{1, 1}, {12, 24}, {24, 12}, {0, 12}, {12, 0}, {60, 12}}) {
        INFO(rows, " x ", cols);
        const auto make = [=](const Slice& slice) { return generate(3, "w", slice, dtype, fill, 5); };
        const Tensor whole = make(Slice::whole(rows, cols));
        CHECK(whole.dtype() == dtype);
        std::vector<Slice> slices{Slice::whole(rows, cols), {rows, cols, {}, {}}};
        for (const int parts : {1, 2, 3, 4, 6})
          for (int index = 0; index < parts; ++index) {
            if (rows % parts == 0) slices.push_back(Slice::rows(rows, cols, index, parts));
            if (cols % parts == 0) slices.push_back(Slice::columns(rows, cols, index, parts));
            if (cols % (3 * parts) == 0) {  // fused [Q | K | V]: the heads' columns of each
              const std::int64_t h = cols / 3;
              const Range q = part(h, index, parts);
              slices.push_back(
                  {rows, cols, {{0, rows}}, {q, {h + q.begin, h + q.end}, {2 * h + q.begin, 2 * h + q.end}}});
            }
          }
        if (rows >= 12 && cols >= 12)  // both axes at once, ranges out of order
          slices.push_back({rows, cols, {{9, 12}, {0, 1}}, {{5, 8}, {0, 5}, {11, 12}}});
        for (const Slice& slice : slices) {
          const Tensor shard = make(slice);
          CHECK(shard.rows() == slice.local_rows());
          CHECK(shard.cols() == slice.local_cols());
          CHECK(shard.values() == slice.extract(whole).values());
        }
      }
  const Slice whole = Slice::whole(4, 4);
  const auto values = [&](std::uint64_t seed, const char* name) {
    return generate(seed, name, whole, DType::f64, Fill::uniform, 1).values();
  };
  CHECK(values(3, "w") != values(4, "w"));
  CHECK(values(3, "w") != values(3, "v"));
  const Values integers = generate(3, "w", Slice::whole(20, 20), DType::f32, Fill::integer, 4).values();
  CHECK(std::set(integers.begin(), integers.end()).size() == 9);
}

TEST_CASE("a slice extracts, locates and inserts the same elements") {
  const Tensor whole = numbered(12, 24);
  const Slice fused{12, 24, {{6, 12}, {0, 2}}, {{4, 8}, {12, 16}, {20, 24}}};
  const Tensor shard = fused.extract(whole);
  REQUIRE(shard.rows() == 8);
  REQUIRE(shard.cols() == 12);
  const Values values = shard.values();
  for (std::int64_t row = 0; row < 8; ++row)
    for (std::int64_t col = 0; col < 12; ++col) {
      const auto [r, c] = fused.locate(row, col);
      CHECK(values[row * 12 + col] == static_cast<double>(100 * r + c));
    }
  CHECK(fused.locate(7, 4) == std::pair<std::int64_t, std::int64_t>{1, 12});

  // The parts of a cut, inserted in any order, are the whole again; one part alone touches only its own.
  for (const int parts : {1, 2, 3, 4, 6, 12})
    for (const bool by_rows : {true, false}) {
      const Tensor rebuilt = Tensor::zeros(12, 24, DType::f64);
      for (int index = parts - 1; index >= 0; --index) {
        const Slice slice =
            by_rows ? Slice::rows(12, 24, index, parts) : Slice::columns(12, 24, index, parts);
        slice.insert(rebuilt, slice.extract(whole));
      }
      CHECK(rebuilt.values() == whole.values());
    }
  const Tensor part_of = Tensor::zeros(12, 24, DType::f64);
  fused.insert(part_of, shard);
  const auto sum = [](const Values& all) { return std::accumulate(all.begin(), all.end(), 0.0); };
  CHECK(sum(part_of.values()) == sum(values));

  // What two slices have in common, cut out of either one's shard, is the same.
  for (const Slice& other : {Slice::rows(12, 24, 1, 2), Slice::columns(12, 24, 2, 3), Slice::whole(12, 24),
                             Slice::nothing_of(12, 24), Slice{12, 24, {{5, 7}, {0, 1}}, {{10, 22}}}}) {
    const auto [in_fused, in_other] = Slice::overlap(fused, other);
    const Values common = in_fused.extract(shard).values();
    const Values theirs = other.extract(whole).values();
    CHECK(common == in_other.extract(other.extract(whole)).values());
    const auto count = std::count_if(values.begin(), values.end(), [&](double value) {
      return std::find(theirs.begin(), theirs.end(), value) != theirs.end();
    });
    CHECK(static_cast<std::ptrdiff_t>(common.size()) == count);
  }

  CHECK_THROWS_AS(fused.locate(8, 0), Error);
  CHECK_THROWS_AS(fused.locate(0, 12), Error);
  CHECK_THROWS_AS(fused.locate(-1, 0), Error);
  CHECK(contains(message_from([&] { fused.extract(numbered(12, 23)); }), "the slice is of (12, 24)"));
  CHECK(contains(message_from([&] { fused.insert(whole, numbered(8, 11)); }), "the shard is (8, 11) f64"));
  CHECK_THROWS_AS(fused.insert(whole, numbered(8, 12, DType::f32)), Error);
}

TEST_CASE("elements survive the way in and out, in each dtype") {
  const Values values{0, -1, 2.5, 1e9, -7, 3};
  CHECK(Tensor::of(2, 3, values).values() == values);
  CHECK(Tensor::of(2, 3, values, DType::f32).values() == values);
  CHECK(Tensor::of(2, 3, values, DType::i32).values() == Values{0, -1, 2, 1e9, -7, 3});
  CHECK(Tensor::of(1, 1, {0.1}, DType::f32).values()[0] == static_cast<double>(0.1f));
  CHECK(Tensor::zeros(3, 2, DType::i32).values() == Values(6, 0.0));
  CHECK((size_of(DType::f32) == 4 && size_of(DType::f64) == 8 && size_of(DType::i32) == 4));
  const Tensor x = Tensor::of(2, 3, values);
  CHECK(x.bytes() == 48);
  CHECK(x.data<double>()[4] == -7);
  CHECK(shape(x) == "(2, 3) f64");
  for (const auto& [rows, cols] : {std::pair{0, 0}, {0, 5}, {5, 0}}) {
    const Tensor empty = Tensor::zeros(rows, cols, DType::f32);
    CHECK(empty.values().empty());
    CHECK(empty.copy().rows() == rows);
    CHECK(empty.defined());
  }
  CHECK_FALSE(Tensor().defined());
}

TEST_CASE("views share memory, copies do not") {
  const Tensor x = numbered(5, 7);
  const Tensor view = x.row_range(1, 4).column_range(2, 5);
  CHECK(view.values() == Values{102, 103, 104, 202, 203, 204, 302, 303, 304});
  CHECK(view.ld() == 7);
  CHECK_FALSE(view.is_contiguous());
  CHECK(view.row_range(1, 2).is_contiguous());
  CHECK(view.row_range(1, 2).reshape(3, 1).values() == Values{202, 203, 204});
  CHECK(x.row_range(1, 3).is_contiguous());
  CHECK(view.row_range(3, 3).values().empty());
  CHECK(view.column_range(1, 1).values().empty());

  const Tensor copied = view.copy(), gathered = view.contiguous(), same = x.contiguous();
  CHECK(copied.is_contiguous());
  CHECK(same.raw() == x.raw());
  CHECK(gathered.raw() != view.raw());
  view.zero();
  CHECK(x.values()[1 * 7 + 2] == 0);
  CHECK(x.values()[1 * 7 + 1] == 101);
  CHECK(x.values()[3 * 7 + 5] == 305);
  CHECK(copied.values()[0] == 102);
  CHECK(gathered.values()[8] == 304);

  view.copy_from(copied);
  CHECK(x.values() == numbered(5, 7).values());
  const Tensor handle = x;
  handle.zero();
  CHECK(x.values() == Values(35, 0.0));

  const Tensor kept = numbered(4, 4).row_range(3, 4);  // a view keeps the storage alive
  CHECK(kept.values() == Values{300, 301, 302, 303});
  CHECK(numbered(6, 4).reshape(3, 8).values() == numbered(6, 4).values());
  CHECK(numbered(2, 2).to(Device::current()).device() == Device::current());
  CHECK(empty_like(view).is_contiguous());
}

TEST_CASE_ON_EVERY_DEVICE("copies between views and devices keep rows and columns") {
  const auto host = Device::host();
  for (const DType dtype : {DType::f32, DType::f64, DType::i32}) {
    const Tensor x = numbered(5, 7, dtype).to(host), view = x.row_range(1, 4).column_range(2, 5);
    const Tensor there = view.to(Device::current());
    CHECK(there.device() != x.device());
    CHECK(there.values() == view.values());
    CHECK(there.column_range(1, 3).to(x.device()).values() == view.column_range(1, 3).values());
    const Tensor back = Tensor::zeros(5, 7, dtype);
    back.row_range(1, 4).column_range(2, 5).copy_from(there);
    CHECK(back.row_range(1, 4).column_range(2, 5).values() == view.values());
    CHECK(back.row_range(0, 1).values() == Values(7, 0.0));
    there.column_range(0, 2).zero();
    CHECK(there.values() == Values{0, 0, 104, 0, 0, 204, 0, 0, 304});
  }
}

TEST_CASE("a wrong use of a tensor says what was asked of what") {
  const Tensor x = numbered(5, 7);
  refuses([&] { x.row_range(2, 6); }, "rows [2, 6) of (5, 7) f64");
  refuses([&] { x.row_range(-1, 2); }, "rows [-1, 2) of (5, 7) f64");
  refuses([&] { x.column_range(4, 3); }, "columns [4, 3) of (5, 7) f64");
  refuses([&] { x.reshape(5, 8); }, "40 is not 35");
  refuses([&] { x.reshape(-5, -7); }, "(-5, -7)");
  refuses([&] { x.column_range(0, 3).reshape(3, 5); }, "rows lie apart");
  refuses([&] { x.copy_from(numbered(7, 5)); }, "copy of (7, 5) f64 into (5, 7) f64");
  refuses([&] { x.copy_from(numbered(5, 7, DType::f32)); }, "copy of (5, 7) f32 into (5, 7)");
  refuses([&] { x.data<float>(); }, "the tensor is (5, 7) f64, not f32");
  refuses([&] { Tensor::of(2, 3, {1, 2}); }, "2 is not 6");
  refuses([&] { Tensor::empty(-1, 3, DType::f32); }, "a tensor cannot be (-1, 3)");
  // 2^62 x 8 elements wrap around to 0 in 64 bits.
  refuses([&] { Tensor::empty(std::int64_t{1} << 62, 8, DType::f32); }, "cannot be");
}

TEST_CASE("the ledger counts bytes by kind, now and at their highest") {
  const auto device = Device::make(DeviceKind::cpu);
  const Device::Scope scope(device);
  const MemoryLedger& ledger = device->memory;
  {
    const Tensor activation = Tensor::empty(10, 10, DType::f32);
    const Tensor view = activation.row_range(0, 5), handle = activation;  // count once
    CHECK(ledger.now(MemoryKind::activation) == 400);
    {
      const MemoryScope weights(MemoryKind::weight);
      const Tensor weight = Tensor::empty(5, 5, DType::f64);
      {
        const MemoryScope gradients(MemoryKind::gradient);
        const Tensor gradient = empty_like(weight);
        CHECK(ledger.now(MemoryKind::gradient) == 200);
      }
      CHECK(MemoryScope::current() == MemoryKind::weight);
      CHECK(ledger.now(MemoryKind::gradient) == 0);
      CHECK(ledger.now(MemoryKind::weight) == 200);
      const MemoryScope checks(MemoryKind::check);
      const Tensor gathered = Tensor::empty(1000, 1000, DType::f64);
      CHECK(ledger.now(MemoryKind::check) == 8000000);
      CHECK(ledger.now() == 600);
    }
    CHECK(ledger.peak() == 800);
  }
  CHECK(MemoryScope::current() == MemoryKind::activation);
  CHECK(ledger.now() == 0);
  CHECK(ledger.peak() == 800);
  device->memory.reset_peak();
  CHECK(ledger.peak() == 0);
  (void)numbered(3, 3).values();  // the host's copies are not this rank's
  CHECK(ledger.peak() == 72);
}

// AddressSanitizer would otherwise end the run where the system refuses memory.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

TEST_CASE("an allocation beyond the limit is refused and counts nothing") {
  const auto device = Device::make(DeviceKind::cpu);
  const Device::Scope scope(device);
  device->memory.limit(3, 1000);
  const Tensor kept = Tensor::empty(100, 1, DType::f64);
  const MemoryScope weights(MemoryKind::weight);
  for (const char* part : {"rank 3 is out of memory", "holds 800 B", "204 B of weights", "allows 1000 B"})
    CHECK_THROWS_WITH_AS(Tensor::empty(51, 1, DType::f32), doctest::Contains(part), UsageError);
  CHECK(device->memory.now() == 800);
  CHECK(device->memory.now(MemoryKind::weight) == 0);
  CHECK(device->memory.peak() == 800);
  CHECK(device->system_allocations() == 1);
  CHECK(Tensor::empty(50, 1, DType::f32).bytes() == 200);  // to the last byte
  {
    const MemoryScope checks(MemoryKind::check);
    CHECK(Tensor::empty(1000, 1, DType::f64).bytes() == 8000);
  }
  CHECK(device->memory.now() == 800);
  // Where the system itself has no memory left, the ledger stays right as well.
  device->memory.limit(3, std::numeric_limits<std::int64_t>::max());
  const auto hopeless = message_from([] { Tensor::empty(std::int64_t{1} << 52, 1, DType::f64); });
  CHECK(contains(hopeless, "no 36028797018963968 B of memory left"));
  CHECK(device->memory.now() == 800);
}

TEST_CASE("the pool: a second round of the same sizes asks the system for nothing") {
  const auto device = Device::make(DeviceKind::cpu);
  const Device::Scope scope(device);
  const auto round = [] {
    std::vector<Tensor> alive;
    for (int i = 0; i < 40; ++i) {
      alive.push_back(Tensor::zeros(1 + i % 7, 1 + (13 * i) % 100, i % 2 == 0 ? DType::f32 : DType::f64));
      if (i % 3 == 0) alive.erase(alive.begin());
    }
    for (const Tensor& tensor : alive) CHECK(reinterpret_cast<std::uintptr_t>(tensor.raw()) % 64 == 0);
  };
  round();
  const std::int64_t after_first = device->system_allocations();
  CHECK(after_first > 0);
  CHECK(after_first < 40);
  for (int i = 0; i < 3; ++i) round();
  CHECK(device->system_allocations() == after_first);

  // Blocks in use are never handed out twice.
  const Tensor a = Tensor::zeros(4, 4, DType::f64), b = Tensor::of(4, 4, Values(16, 1.0));
  CHECK(a.raw() != b.raw());
  CHECK(a.values() == Values(16, 0.0));
}
