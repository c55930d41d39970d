// Counter-based random numbers: element i of a tensor is a pure function of (seed, name, i). No state, so a
// rank that holds columns 40 to 79 makes just those, and any cut on any device gives the same model.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tessera {

/// Philox 4x32-10: ten rounds over a 128-bit counter under a 64-bit key. Salmon, Moraes, Dror, Shaw,
/// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

/// The random numbers of one tensor: its name and the seed make the stream, the element's index the counter.
class Random {
 public:
  Random(std::uint64_t seed, std::string_view name);
  std::uint32_t bits(std::uint64_t index) const;
  /// In [-1, 1), a multiple of 2^-23: exact in f32 and in f64.
  double uniform(std::uint64_t index) const;
  /// An integer of [-limit, limit], for sums that are exact in any order.
  double small_integer(std::uint64_t index, int limit) const;

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint64_t stream_;
};

}  // namespace tessera
