// How large the weights of the whole model are, and a rank's parts of them.
#pragma once

#include <cmath>

#include "gpt/model.hpp"

namespace tessera::gpt {

/// A weight of the whole model, and the scale that suits its fan-in.
struct WeightInfo {
  std::string name;
  std::int64_t rows, cols;
  double scale;
};

/// Every weight of the whole model, in the order of the model, with the names of Hugging Face's GPT-2.
inline std::vector<WeightInfo> weights_of(const ModelConfig& m) {
  const std::int64_t w = m.width(), f = m.ffn(), qkv = w + 2 * m.attention.kv_width();
  const double scale = 1 / std::sqrt(static_cast<double>(w));
  std::vector<WeightInfo> all = {{"wte.weight", m.vocabulary, w, 1}, {"wpe.weight", m.wpe_rows(), w, 1}};
  const auto linear = [&](const std::string& name, std::int64_t rows, std::int64_t cols, double of) {
    all.push_back({name + ".weight", rows, cols, of});
    all.push_back({name + ".bias", 1, cols, 1});
  };
  for (std::int64_t l = 0; l < m.layers; ++l) {
    const std::string h = format("h.{}.", l);
    linear(h + "ln_1", 1, w, 1);
    linear(h + "attn.c_attn", w, qkv, 3 * scale);
    linear(h + "attn.c_proj", w, w, scale);
    linear(h + "ln_2", 1, w, 1);
    std::vector<std::string> mlps = {h + "mlp."};
    if (m.has_experts(l)) {
      all.push_back({h + "mlp.router.weight", w, m.experts, 3 * scale});
      mlps.clear();
      for (std::int64_t i = 0; i < m.experts; ++i) mlps.push_back(format("{}mlp.experts.{}.", h, i));
    }
    for (const std::string& mlp : mlps)
      linear(mlp + "c_fc", w, f, scale), linear(mlp + "c_proj", f, w, scale / 2);
  }
  linear("ln_f", 1, w, 1);
  if (!m.tied) all.push_back({"lm_head.weight", m.vocabulary, w, scale});
  return all;
}

/// How many elements a rank of ep holds of the experts of one block.
inline std::int64_t own_experts(const ModelConfig& m) {
  return m.experts / m.ep * ((m.width() + 1) * m.ffn() + (m.ffn() + 1) * m.width());
}

/// A part of the parameters that ZeRO cuts by itself. The experts of a block are a part of their own, behind
/// the rest of the block, since other ranks hold the same ones.
struct Part {
  std::int64_t elements;
  bool experts = false;
};
/// Whether this is the name of an expert's weight.
inline bool of_expert(const std::string& name) { return name.find(".experts.") != std::string::npos; }

/// The elements that rank `rank` of `tp` holds of each part: of wte and of wpe if `first`, of each block of
/// `layers` and of its experts, of the last norm and of the head's matrix if `last`. The matrices of a block
/// are cut; its norms, the biases after a sum, a router and experts are on every rank of tp. The head of a
/// tied model holds no matrix of its own where the embedding lies on the same stage.
inline std::vector<Part> own_parts(const ModelConfig& m, Range layers, bool first, bool last, int rank,
                                   int tp) {
  const std::int64_t w = m.width(), f = m.ffn();
  const std::int64_t ids = attention_heads::own_ids(m.vocabulary, rank, tp).size();
  const std::int64_t cut = ((w + 1) * (w + 2 * m.attention.kv_width()) + w * w + (w + 1) * f + f * w) /
                           tp;  // two pairs of matrices
  std::vector<Part> parts;
  if (first) parts = {{ids * w}, {m.wpe_rows() * w}};
  for (std::int64_t l = layers.begin; l < layers.end; ++l) {
    const bool experts = m.has_experts(l);
    parts.push_back({experts ? cut - ((w + 1) * f + f * w) / tp + 5 * w + w * m.experts : cut + 6 * w});
    if (experts) parts.push_back({own_experts(m), true});
  }
  if (last) parts.push_back({2 * w});
  if (last && !(first && m.tied)) parts.push_back({ids * w});
  return parts;
}
/// The elements of all these parts together.
inline std::int64_t own_elements(const ModelConfig& m, Range layers, bool first, bool last, int rank,
                                 int tp) {
  std::int64_t all = 0;
  for (const Part& part : own_parts(m, layers, first, last, rank, tp)) all += part.elements;
  return all;
}

/// Psi, the elements of the whole model.
inline std::int64_t elements_of(ModelConfig m) {
  m.ep = 1;
  return own_elements(m, {0, m.layers}, true, true, 0, 1);
}

}  // namespace tessera::gpt
