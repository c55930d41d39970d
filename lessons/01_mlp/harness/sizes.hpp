// The sizes of lessons 01 to 04, and their flags.
#pragma once

#include "app/app.hpp"

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
  /// The axes of the matrices by their letters, as Proof::axes takes them.
  std::map<char, std::int64_t> axes() const { return {{'N', tokens}, {'W', width}, {'F', ffn}}; }
  /// The bytes of memory that a lesson takes on p ranks of one machine, its unsplit reference in f64
  /// included.
  double memory(int p) const {
    const double n = tokens, w = width, f = ffn;
    return 3e8 + 4 * (12 * w * f + n * w * (12 * p + 6) + n * f * (2 * p + 10));
  }
  /// The same for a picture, which draws N, W and F with these lengths.
  std::map<char, Side> sides(double n, double w, double f) const {
    return {{'N', {std::to_string(tokens), n}},
            {'W', {std::to_string(width), w}},
            {'F', {std::to_string(ffn), f}},
            {'1', {"1", 16}}};
  }
};

}  // namespace tessera
