#include "tensor/random.hpp"

namespace tessera {

Random::Random(std::uint64_t seed, std::string_view name) : seed_(seed), stream_(14695981039346656037ull) {
  for (const char letter : name)
    stream_ = (stream_ ^ static_cast<unsigned char>(letter)) * 1099511628211ull;  // FNV-1a
}

double Random::uniform(std::uint64_t index) const {
  return static_cast<double>(static_cast<std::int32_t>(bits(index)) >> 8) / 8388608.0;
}

double Random::small_integer(std::uint64_t index, int limit) const {
  return static_cast<double>(bits(index) % static_cast<std::uint32_t>(2 * limit + 1)) - limit;
}

}  // namespace tessera
