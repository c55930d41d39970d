// Counter-based random numbers: element i of a tensor is a pure function of (seed, name, i). No state, so a
// rank that holds columns 40 to 79 makes just those, and any cut on any device gives the same model.
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/portable.hpp"

namespace tessera {

/// 128 bits: the counter that Philox takes, and the random numbers that it makes of it.
struct PhiloxBlock {
  std::uint32_t word[4];
  bool operator==(const PhiloxBlock&) const = default;
};

/// Philox 4x32-10: ten rounds over a 128-bit counter under a 64-bit key. Salmon, Moraes, Dror, Shaw,
/// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
TESSERA_BOTH PhiloxBlock philox(const PhiloxBlock& counter, std::uint64_t key) {
  std::uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  std::uint32_t key0 = static_cast<std::uint32_t>(key), key1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c0, b = std::uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ key0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ key1;
    c3 = static_cast<std::uint32_t>(a);
    key0 += 0x9E3779B9;  // the golden ratio
    key1 += 0xBB67AE85;  // sqrt(3) - 1
  }
  return {{c0, c1, c2, c3}};
}

/// The random numbers of one tensor: its name and the seed make the stream, the element's index the counter.
class Random {
 public:
  Random(std::uint64_t seed, std::string_view name);
  /// 32 random bits.
  TESSERA_BOTH std::uint32_t bits(std::uint64_t index) const {
    const std::uint64_t block = index / 4, word = index % 4;
    const PhiloxBlock out =
        philox({{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                 static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)}},
               seed_);
    const std::uint32_t low = word == 0 ? out.word[0] : out.word[1];  // selections, so that loops vectorise
    const std::uint32_t high = word == 2 ? out.word[2] : out.word[3];
    return word < 2 ? low : high;
  }
  /// In [-1, 1), a multiple of 2^-23: exact in f32 and in f64.
  double uniform(std::uint64_t index) const;
  /// An integer of [-limit, limit], for sums that are exact in any order.
  double small_integer(std::uint64_t index, int limit) const;

 private:
  std::uint64_t seed_, stream_;
};

}  // namespace tessera
