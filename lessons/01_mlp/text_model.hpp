// The MLP at work: it reads the last 8 bytes of a text and predicts the next one. Each byte becomes a row of
// an embedding table, the 8 rows side by side are X, and the MLP's Y holds the logits of the 256 possible
// bytes.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "01_mlp/mlp.hpp"
#include "tensor/error.hpp"
#include "tensor/file.hpp"
#include "tensor/slice.hpp"

namespace tessera::mlp {

/// The bytes of a file. Throws UsageError where the file cannot be read, where it has fewer than 64 bytes, or
/// where all its bytes are equal.
inline std::string read_text(const std::string& path) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const UsageError& error) {
    throw UsageError("--text {}: {}; any file of 64 bytes or more would work", path, error.what());
  }
  if (text.size() < 64)
    throw UsageError("--text {}: {} bytes are too few; 64 or more would work", path, text.size());
  if (text.find_first_not_of(text[0]) == std::string::npos)
    throw UsageError(
        "--text {}: all its bytes are the same, so there is nothing to learn; another text would work", path);
  return text;
}

/// The entropy of the byte frequencies of a text, in nats: the loss of the best prediction that does not look
/// at the context.
inline double byte_entropy(const std::string& text) {
  std::array<double, 256> count{};
  for (const char byte : text) ++count[static_cast<unsigned char>(byte)];
  double entropy = 0;
  for (const double n : count)
    if (n > 0)
      entropy -= n / static_cast<double>(text.size()) * std::log(n / static_cast<double>(text.size()));
  return entropy;
}

/// Contexts (N * 8, 1), and for each the byte that follows it (N, 1), as ids.
struct Batch {
  Tensor context, target;
};

struct TextModel {
  static constexpr std::int64_t context = 8, features = 16, hidden = 128, bytes = 256;

  Tensor table, dtable;                        // (256, 16)
  Mlp mlp;                                     // W = 8 * 16, F = 128, M = 256
  std::vector<Tensor> masters, first, second;  // of each weight: what AdamW updates, and its moments

  explicit TextModel(std::uint64_t seed, DType dtype)
      : table(weight(seed, "table", bytes, features, 1, dtype)),
        dtable(zero_gradient(table)),
        mlp{weight(seed, "A", context * features, hidden, 1, dtype), weight(seed, "c1", 1, hidden, 0, dtype),
            weight(seed, "B", hidden, bytes, 1, dtype), weight(seed, "c2", 1, bytes, 0, dtype),
            Activation::gelu} {
    const MemoryScope scope(MemoryKind::optimizer);
    for (const auto& [w, g] : parameters()) {
      masters.push_back(cast(w, g.dtype()));
      first.push_back(Tensor::zeros(w.rows(), w.cols(), g.dtype()));
      second.push_back(Tensor::zeros(w.rows(), w.cols(), g.dtype()));
    }
  }

  /// The batch that predicts the bytes at these positions of the text; each position must be at least 8.
  static Batch batch(const std::string& text, const std::vector<std::size_t>& positions) {
    std::vector<double> ids, next;
    for (const std::size_t at : positions) {
      for (std::size_t i = at - context; i < at; ++i) ids.push_back(static_cast<unsigned char>(text[i]));
      next.push_back(static_cast<unsigned char>(text[at]));
    }
    const auto n = static_cast<std::int64_t>(positions.size());
    return {Tensor::of(n * context, 1, ids, DType::i32), Tensor::of(n, 1, next, DType::i32)};
  }

  // begin step
  /// Returns the loss of each row, (N, 1). With `learn`, also runs the backward and step `number` of AdamW,
  /// which counts from 1.
  Tensor step(const Batch& batch, bool learn, double lr, std::int64_t number) {
    const std::int64_t n = batch.target.rows();
    Mlp::Saved saved;
    const Tensor x = embedding(batch.context, table).reshape(n, context * features);  // (N, 8 * 16)
    const Tensor logits = mlp.forward(x, saved);                                      // (N, 256)
    const CrossEntropy loss = cross_entropy(logits, batch.target);
    if (!learn) return loss.loss;
    for (const auto& [w, g] : parameters()) g.zero();
    const Tensor dlogits = cross_entropy_backward(loss, batch.target, n);  // (N, 256)  of the mean over N
    const Tensor dx = mlp.backward_input(dlogits, saved);                  // (N, 8 * 16)
    mlp.backward_weight(saved);
    add_embedding_backward(dtable, dx.reshape(n * context, features), batch.context);
    for (std::size_t i = 0; const auto& [w, g] : parameters()) {
      adamw(masters[i], first[i], second[i], g, {.lr = lr}, number);
      store(w, masters[i]);
      ++i;
    }
    return loss.loss;
  }
  // end step

  /// Each weight with its gradient.
  std::array<std::pair<Tensor, Tensor>, 5> parameters() const {
    return {{{table, dtable}, {mlp.a, mlp.da}, {mlp.c1, mlp.dc1}, {mlp.b, mlp.db}, {mlp.c2, mlp.dc2}}};
  }
  std::int64_t size() const {  // in elements of all weights
    std::int64_t elements = 0;
    for (const auto& [w, g] : parameters()) elements += w.size();
    return elements;
  }

 private:
  static Tensor weight(std::uint64_t seed, const char* name, std::int64_t rows, std::int64_t cols,
                       double gain, DType dtype) {
    const MemoryScope scope(MemoryKind::weight);
    return generate(seed, std::string("text.") + name, Slice::whole(rows, cols), dtype, Fill::uniform,
                    gain / std::sqrt(static_cast<double>(rows)));
  }
};

}  // namespace tessera::mlp
