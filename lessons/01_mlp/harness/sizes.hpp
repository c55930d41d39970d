// The sizes of lessons 01 to 04, and their flags.
#pragma once

#include <array>

#include "app/app.hpp"
#include "tensor/error.hpp"

namespace tessera {

/// N tokens, W = width, F = ffn.
struct LayerSizes {
  std::int64_t tokens = 48, width = 96, ffn = 192;

  void add_flags(App& app) {
    app.size("--tokens", tokens, "N, rows of X");
    app.size("--width", width, "W, the width of the model");
    app.size("--ffn", ffn, "F, the width of the hidden layer");
    app.memory([this](int p) { return memory(p); });
  }
  /// What a proof calls its axes.
  std::map<char, std::int64_t> axes() const { return {{'N', tokens}, {'W', width}, {'F', ffn}}; }
  /// The bytes of memory that a lesson takes on p ranks of one machine, its unsplit reference in f64
  /// included.
  double memory(int p) const {
    const double n = static_cast<double>(tokens), k = static_cast<double>(width),
                 f = static_cast<double>(ffn);
    return 3e8 + 4 * (12 * k * f + n * k * (12 * p + 6) + n * f * (2 * p + 10));
  }
  /// N, W and F for a picture.
  std::array<std::string, 3> texts() const {
    return {std::to_string(tokens), std::to_string(width), std::to_string(ffn)};
  }
};

}  // namespace tessera
