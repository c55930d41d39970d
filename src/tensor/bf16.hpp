// bf16: the upper half of an f32, which has its range and 8 bits of precision. Nothing computes in bf16:
// numbers are stored in it, arithmetic widens them to f32, and each result is rounded once.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor/portable.hpp"

namespace tessera {

/// It converts to float and from every number without being asked, so that a function that is written for T
/// holds for bf16 as well. Its intermediate values should be Arithmetic<T>.
struct bf16 {
  std::uint16_t bits;
  bf16() = default;
  /// To the nearest, ties to even. A NaN stays a NaN. A double is rounded to f32 first.
  template <class X>
  requires std::is_arithmetic_v<X> TESSERA_BOTH bf16(X number) {  // NOLINT: see above
    const float x = static_cast<float>(number);
    std::uint32_t word;
    std::memcpy(&word, &x, sizeof(x));
    const std::uint32_t rounded = word + 0x7FFF + (word >> 16 & 1);  // may carry into the exponent, up to inf
    bits = static_cast<std::uint16_t>(x == x ? rounded >> 16 : word >> 16 | 0x40);
  }
  TESSERA_BOTH operator float() const {  // NOLINT: see above
    const std::uint32_t word = std::uint32_t{bits} << 16;
    float x;
    std::memcpy(&x, &word, sizeof(x));
    return x;
  }
};

/// What numbers that are stored as T are computed in, and what their sums are kept in.
template <class T>
using Arithmetic = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

}  // namespace tessera
