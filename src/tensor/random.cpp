#include "tensor/random.hpp"

namespace tessera {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;  // the golden ratio
    key[1] += 0xBB67AE85;  // sqrt(3) - 1
  }
  return c;
}

Random::Random(std::uint64_t seed, std::string_view name)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
      stream_(14695981039346656037ull) {
  for (const char letter : name)
    stream_ = (stream_ ^ static_cast<unsigned char>(letter)) * 1099511628211ull;  // FNV-1a
}

std::uint32_t Random::bits(std::uint64_t index) const {
  const std::uint64_t block = index / 4;
  return philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                 static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)},
                key_)[index % 4];
}

double Random::uniform(std::uint64_t index) const {
  return static_cast<double>(static_cast<std::int32_t>(bits(index)) >> 8) / 8388608.0;
}

double Random::small_integer(std::uint64_t index, int limit) const {
  return static_cast<double>(bits(index) % static_cast<std::uint32_t>(2 * limit + 1)) - limit;
}

}  // namespace tessera
