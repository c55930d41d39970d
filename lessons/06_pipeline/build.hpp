// Makes the chunk of a virtual stage out of the weights that it owns, and lists them.
#pragma once

#include <cmath>

#include "06_pipeline/model.hpp"
#include "tensor/error.hpp"

namespace tessera::pipeline {

/// Every weight of the whole model, in its order, and the scale that suits its fan-in.
struct WeightInfo {
  std::string name;
  std::int64_t rows, cols;
  double scale;
};

inline std::vector<WeightInfo> weights_of(const Model& m) {
  const std::int64_t w = m.width(), f = m.ffn(), qkv = w + 2 * m.attention.kv_width();
  const double scale = 1 / std::sqrt(static_cast<double>(w));
  std::vector<WeightInfo> all = {{"wte.weight", m.vocabulary, w, 1},
                                 {"wpe.weight", m.attention.options.seq, w, 1}};
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
    linear(h + "mlp.c_fc", w, f, scale);
    linear(h + "mlp.c_proj", f, w, scale / 2);
  }
  linear("ln_f", 1, w, 1);
  if (!m.tied) all.push_back({"lm_head.weight", m.vocabulary, w, scale});
  return all;
}

inline std::int64_t elements_of(const Model& model) {
  std::int64_t all = 0;
  for (const WeightInfo& info : weights_of(model)) all += info.rows * info.cols;
  return all;
}

class Builder {
 public:
  Builder(const Model& model, const TensorParallel& tp, MakeWeight make)
      : model_(model), rank_(tp.rank()), ranks_(tp.size()), make_(std::move(make)) {}

  std::vector<Parameter> parameters;  // of everything built so far, in the order of the model

  /// Layers [layers.begin, layers.end); the first chunk has the embedding, the last the head.
  Chunk<> chunk(Range layers, bool first, bool last) {
    Chunk<> made;
    if (first) made.embedding = embedding();
    for (std::int64_t l = layers.begin; l < layers.end; ++l) made.blocks.push_back(block(format("h.{}.", l)));
    if (last) made.head = head();
    made.positions = positions(model_);
    made.tokens = model_.tokens;
    return made;
  }

  Norm norm(const std::string& name) {
    const Slice row = Slice::whole(1, model_.width());
    const Norm made{Placed<Replicated>(make_(name + ".weight", row)),
                    Placed<Replicated>(make_(name + ".bias", row))};
    list(name + ".weight", row, made.weight.local(), made.dweight.local());
    list(name + ".bias", row, made.bias.local(), made.dbias.local());
    return made;
  }

  TransformerBlock<> block(const std::string& h) {
    const std::int64_t w = model_.width(), f = model_.ffn();
    const auto linear = [&](const std::string& name, const Slice& a, const Slice& c) {
      return std::pair{make_(h + name + ".weight", a), make_(h + name + ".bias", c)};
    };
    const auto columns = [&](std::int64_t rows) { return Slice::columns(rows, f, rank_, ranks_); };
    const auto qkv = [&](std::int64_t rows) {
      return attention_heads::qkv_slice(rows, model_.attention, rank_, ranks_);
    };
    const auto rows = [&](std::int64_t of) { return Slice::rows(of, w, rank_, ranks_); };
    const Slice row = Slice::whole(1, w);
    const Norm ln_1 = norm(h + "ln_1");
    const auto [a, ca] = linear("attn.c_attn", qkv(w), qkv(1));
    const auto [o, co] = linear("attn.c_proj", rows(w), row);
    const ParallelAttention attn(a, ca, o, co, attention_heads::own_heads(model_.attention, rank_, ranks_));
    list(h + "attn.c_attn.weight", qkv(w), a, attn.dqkv());
    list(h + "attn.c_attn.bias", qkv(1), ca, attn.dc_qkv());
    list(h + "attn.c_proj.weight", rows(w), o, attn.c_proj.da.local());
    list(h + "attn.c_proj.bias", row, co, attn.c_proj.dc.local());
    const Norm ln_2 = norm(h + "ln_2");
    const auto [u, cu] = linear("mlp.c_fc", columns(w), columns(1));
    const auto [v, cv] = linear("mlp.c_proj", rows(f), row);
    const mlp_block::ParallelMlp mlp{{u, cu}, {v, cv}};
    list(h + "mlp.c_fc.weight", columns(w), u, mlp.fc1.da.local());
    list(h + "mlp.c_fc.bias", columns(1), cu, mlp.fc1.dc.local());
    list(h + "mlp.c_proj.weight", rows(f), v, mlp.fc2.da.local());
    list(h + "mlp.c_proj.bias", row, cv, mlp.fc2.dc.local());
    return {ln_1, attn, ln_2, mlp};
  }

  Embedding embedding() {
    const Slice wte = Slice::whole(model_.vocabulary, model_.width()),
                wpe = Slice::whole(model_.attention.options.seq, model_.width());
    const Embedding made{Placed<Replicated>(make_("wte.weight", wte)),
                         Placed<Replicated>(make_("wpe.weight", wpe))};
    list("wte.weight", wte, made.wte.local(), made.dwte.local());
    list("wpe.weight", wpe, made.wpe.local(), made.dwpe.local());
    return made;
  }

  Head head() {
    const Slice slice = Slice::whole(model_.vocabulary, model_.width());
    const Norm ln_f = norm("ln_f");
    const Head made{ln_f, Placed<Replicated>(make_("lm_head.weight", slice))};
    list("lm_head.weight", slice, made.w.local(), made.dw.local());
    return made;
  }

  void list(const std::string& name, const Slice& slice, const Tensor& value, const Tensor& gradient) {
    parameters.push_back({name, slice, value, gradient});
  }

  /// 0, 1, ..., seq - 1, once for each sequence of a microbatch. (n, 1)
  static Tensor positions(const Model& model) {
    const MemoryScope data(MemoryKind::check);
    std::vector<double> at;
    for (std::int64_t i = 0; i < model.rows(); ++i)
      at.push_back(static_cast<double>(i % model.attention.options.seq));
    return Tensor::of(model.rows(), 1, at, DType::i32);
  }

 protected:
  Model model_;
  int rank_, ranks_;
  MakeWeight make_;
};

}  // namespace tessera::pipeline
