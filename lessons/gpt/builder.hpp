// Makes the chunks of a rank out of the slices of the weights that it owns, and lists these weights. Every
// weight is made by its name and slice, so that any cut of the model gives the same model.
#pragma once

#include "gpt/sizes.hpp"

namespace tessera::gpt {

/// The elements of the parameters that this rank holds.
inline std::int64_t elements_of(const std::vector<Parameter>& parameters) {
  std::int64_t all = 0;
  for (const Parameter& one : parameters) all += one.value.size();
  return all;
}

// begin builder
class Builder {
 public:
  Builder(const ModelConfig& config, const TensorParallel& tp, MakeWeight make)
      : positions(whole_positions(config)), config_(config), tp_(tp), make_(std::move(make)) {}

  std::vector<Parameter> parameters;  // of everything built so far, in the order of the model
  Tensor positions;                   // (n, 1) i32, of the tokens of a microbatch; lesson 11 cuts them
  attention_heads::Core core;         // of every attention; lesson 11 has its own
  Communicator* ep = nullptr;         // the ranks that share the experts out: lesson 12
  std::vector<Communicator*> batch;   // the axes of all ranks that have tokens: lesson 12
  /// Runs each pass of all chunks, if there is one. Part 0 is the embedding, then come all layers of the
  /// model, then the head.
  Around around;

  /// The layers [layers.begin, layers.end); the first chunk has the embedding, the last one the head.
  template <class Parts = TensorParallelParts>
  ChunkOf<Parts> chunk(Range layers, bool first, bool last) {
    ChunkOf<Parts> made;
    if (first) made.embedding = embedding<typename Parts::Embedding>();
    auto& starts = block_starts_.emplace_back();
    for (std::int64_t l = layers.begin; l < layers.end; ++l) {
      starts.push_back(parameters.size());
      made.blocks.push_back(block<typename Parts::Block>(l));
      Parts::set_up(made.blocks.back(), config_, tp_);
    }
    starts.push_back(parameters.size());
    if (last) made.head = head<typename Parts::Head>();
    made.positions = positions;
    made.tokens = config_.tokens;
    if (around)
      made.around = [all = around, layers, head = config_.layers + 1](Pass pass, std::size_t part,
                                                                      const auto& compute) {
        const auto layer = static_cast<std::int64_t>(part);
        const std::int64_t of_all = part == 0 ? 0 : layer > layers.size() ? head : layers.begin + layer;
        all(pass, static_cast<std::size_t>(of_all), compute);
      };
    return made;
  }

  /// The index in `parameters` of the first parameter of a block. One past the last block of a chunk, it is
  /// the first parameter of the head.
  std::size_t block_start(std::size_t chunk, std::size_t block) const {
    return block_starts_.at(chunk).at(block);
  }

  /// True on the last stage of a tied model that is not the first stage too: it holds a copy of wte, listed
  /// under the same name. The copy starts equal and stays equal, since both stages step with the sum of both
  /// gradients.
  bool has_embedding_copy() const { return has_copy_; }

  const ModelConfig& config() const { return config_; }
  /// Makes a slice of a weight for lesson 12, whose parts list their parameters themselves.
  Tensor weight(const std::string& name, const Slice& slice) const { return make_(name, slice); }
  /// The MLP of the block whose names begin with `h`, its two linear layers cut over tp. Lists its weights.
  template <class Mlp>
  Mlp mlp(const std::string& h) {
    const std::int64_t w = config_.width(), f = config_.ffn();
    const auto columns = [&](std::int64_t rows) { return Slice::columns(rows, f, tp_.rank(), tp_.size()); };
    const Slice rows = Slice::rows(f, w, tp_.rank(), tp_.size()), row = Slice::whole(1, w);
    const Tensor u = make_(h + "mlp.c_fc.weight", columns(w)), cu = make_(h + "mlp.c_fc.bias", columns(1)),
                 v = make_(h + "mlp.c_proj.weight", rows), cv = make_(h + "mlp.c_proj.bias", row);
    const Mlp made{{u, cu}, {v, cv}};
    list(h + "mlp.c_fc.weight", columns(w), u, made.fc1.da);
    list(h + "mlp.c_fc.bias", columns(1), cu, made.fc1.dc);
    list(h + "mlp.c_proj.weight", rows, v, made.fc2.da);
    list(h + "mlp.c_proj.bias", row, cv, made.fc2.dc);
    return made;
  }

 private:
  template <class Norm>
  Norm norm(const std::string& name) {
    const Slice row = Slice::whole(1, config_.width());
    Norm made{Placed<Replicated>(make_(name + ".weight", row)),
              Placed<Replicated>(make_(name + ".bias", row))};
    made.epsilon = config_.layer_norm_epsilon;
    list(name + ".weight", row, made.weight.local(), made.dweight);
    list(name + ".bias", row, made.bias.local(), made.dbias);
    return made;
  }

  template <class Block>
  Block block(std::int64_t layer) {
    const std::string h = format("h.{}.", layer);
    const std::int64_t w = config_.width();
    const auto linear = [&](const std::string& name, const Slice& a, const Slice& c) {
      return std::pair{make_(h + name + ".weight", a), make_(h + name + ".bias", c)};
    };
    const auto qkv = [&](std::int64_t rows) {
      return attention_heads::qkv_slice(rows, config_.attention, tp_.rank(), tp_.size());
    };
    const Slice rows = Slice::rows(w, w, tp_.rank(), tp_.size()), row = Slice::whole(1, w);
    const auto ln_1 = norm<decltype(Block::ln_1)>(h + "ln_1");
    const auto [a, ca] = linear("attn.c_attn", qkv(w), qkv(1));
    const auto [o, co] = linear("attn.c_proj", rows, row);
    const decltype(Block::attn) attn(
        a, ca, o, co, attention_heads::own_heads(config_.attention, tp_.rank(), tp_.size()), core);
    list(h + "attn.c_attn.weight", qkv(w), a, attn.c_attn.da);
    list(h + "attn.c_attn.bias", qkv(1), ca, attn.c_attn.dc);
    list(h + "attn.c_proj.weight", rows, o, attn.c_proj.da);
    list(h + "attn.c_proj.bias", row, co, attn.c_proj.dc);
    const auto ln_2 = norm<decltype(Block::ln_2)>(h + "ln_2");
    using Mlp = decltype(Block::mlp);
    if constexpr (requires { Mlp::make(*this, h, layer); })
      return {ln_1, attn, ln_2, Mlp::make(*this, h, layer)};
    else
      return {ln_1, attn, ln_2, mlp<Mlp>(h)};
  }

  template <class Embedding>
  Embedding embedding() {
    const Slice wte = vocabulary_slice(), wpe = Slice::whole(config_.wpe_rows(), config_.width());
    const Embedding made(
        {Placed<Shard<0>>(make_("wte.weight", wte)), Placed<Replicated>(make_("wpe.weight", wpe))});
    list("wte.weight", wte, made.wte.local(), made.dwte);
    list("wpe.weight", wpe, made.wpe.local(), made.dwpe);
    if (config_.tied) head_weight_ = {made.wte, made.dwte};
    return made;
  }

  template <class Head>
  Head head() {
    const auto ln_f = norm<decltype(Head::ln_f)>("ln_f");
    if (!head_weight_.first.local().defined()) {
      const std::string name = config_.tied ? "wte.weight" : "lm_head.weight";
      const Placed<Shard<0>> weight(make_(name, vocabulary_slice()));
      head_weight_ = {weight, zero_gradient(weight)};
      list(name, vocabulary_slice(), head_weight_.first.local(), head_weight_.second);
      has_copy_ = config_.tied;
    }
    return Head({ln_f, head_weight_.first, head_weight_.second});
  }

  Slice vocabulary_slice() const {
    const Range ids = attention_heads::own_ids(config_.vocabulary, tp_.rank(), tp_.size());
    return {config_.vocabulary, config_.width(), {ids}, {{0, config_.width()}}};
  }

  /// 0, 1, ..., seq - 1, once for each sequence of a microbatch.
  static Tensor whole_positions(const ModelConfig& config) {
    const MemoryScope data(MemoryKind::check);
    std::vector<double> at;
    for (std::int64_t i = 0; i < config.attention.tokens(); ++i)
      at.push_back(static_cast<double>(i % config.seq()));
    return Tensor::of(std::ssize(at), 1, at, DType::i32);
  }

  template <class P>
  void list(const std::string& name, const Slice& slice, const Tensor& value, const Placed<P>& gradient) {
    parameters.push_back({name, slice, value, gradient.local(), is<P, Partial>});
  }

  ModelConfig config_;
  TensorParallel tp_;
  MakeWeight make_;
  std::pair<Placed<Shard<0>>, Placed<Shard<0>>> head_weight_;  // with its gradient, where this rank has them
  bool has_copy_ = false;
  std::vector<std::vector<std::size_t>> block_starts_;  // of each chunk
};
// end builder

}  // namespace tessera::gpt
