// Reads the weights of a GPT-2 into any cut, from a safetensors file with Hugging Face's names: a published
// one, or the model of a checkpoint, whose optimiser has a file beside it. A rank reads one whole tensor at a
// time and keeps its slice of it, so that no rank ever holds the whole model.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>

#include "gpt/builder.hpp"
#include "tensor/safetensors.hpp"

namespace tessera::gpt {

/// The name of a weight in transformers' GPT2LMHeadModel.
inline std::string name_in_file(const std::string& name) {
  return name == "lm_head.weight" ? name : "transformer." + name;
}
/// Whether the weight has one axis there: a bias, or a weight of a norm.
inline bool is_vector(const std::string& name) {
  return name.ends_with(".bias") || name.find("ln_") != std::string::npos;
}

class WeightsFile {
 public:
  /// Throws UsageError, which begins with the flag, where the file is no GPT-2. The sizes are read from the
  /// shapes.
  explicit WeightsFile(const std::string& path, const std::string& flag = "--weights")
      : what_(flag + " " + path), file_(path) {
    if (flag == "--resume") {
      const auto state = file_.metadata().find("optimizer");
      if (state == file_.metadata().end())
        refuse("names no state of an optimiser; a folder that --save wrote would work");
      state_.emplace((std::filesystem::path(path).parent_path() / state->second).string());
    }
    if (file_.has("transformer.wte.weight"))
      prefix_ = "transformer.";  // GPT2LMHeadModel's; GPT2Model has none
    const auto &wte = need("wte.weight"), &wpe = need("wpe.weight");
    for (const auto& [name, entry] : {std::pair{"wte.weight", wte}, {"wpe.weight", wpe}})
      if (entry.rows < 1 || entry.cols < 1)  // as for a tensor that cannot be read
        refuse(format(
            "{}{}; one that can be read, and has elements, would work", name,
            entry.unreadable.empty() ? format(" is ({}, {})", entry.rows, entry.cols) : entry.unreadable));
    vocabulary = wte.rows, width = wte.cols, positions = wpe.rows;
    while (file_.has(prefix_ + format("h.{}.ln_1.weight", layers))) ++layers;
    if (const std::string router = prefix_ + "h.1.mlp.router.weight"; file_.has(router))
      experts = file_.at(router).cols;
    configure();
  }

  std::int64_t vocabulary = 0, width = 0, positions = 0, layers = 0, experts = 0;
  std::int64_t heads = 0, top_k = 0;  // 0: the file does not say
  double layer_norm_epsilon = 1e-5;
  const std::string& what() const { return what_; }  ///< "--weights FILE"
  /// Of the run that wrote the checkpoint; only after --resume.
  const std::map<std::string, std::string>& metadata() const { return state_->metadata(); }

  // begin check
  /// Throws UsageError unless the file has every weight of `config` in its shape, and nothing else that a
  /// GPT-2 would compute with; and, for each other prefix, what an optimiser keeps of each weight.
  void check(ModelConfig config, const std::vector<std::string>& prefixes = {""}) const {
    config.positions = positions;
    std::size_t known = 0;
    for (const std::string& prefix : prefixes)
      for (const auto& [name, rows, cols, scale] : weights_of(config)) {
        check_shape(prefix + name, rows, cols);
        known += prefix.empty();
      }
    for (const auto& [name, entry] : file_.entries()) {
      const bool mask = name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
      known += mask || name == "lm_head.weight";
    }
    if (known != file_.entries().size())
      refuse(format("has {} tensors that no GPT-2 of {} layers has", file_.entries().size() - known, layers));
    if (!file_.has("lm_head.weight")) return;
    const Tensor head = file_.read("lm_head.weight"), wte = file_.read(prefix_ + "wte.weight");
    if (shape(head) != shape(wte) ||
        std::memcmp(head.raw(), wte.raw(), static_cast<std::size_t>(wte.bytes())) != 0)
      refuse("lm_head.weight is not wte.weight: only a head tied to the embedding would work");
  }
  // end check

  // begin read
  /// Reads this slice of a weight, or of what an optimiser keeps of it. Throws UsageError where an element is
  /// not finite.
  Tensor read(const std::string& name, const Slice& slice, DType dtype) const {
    check_shape(name, slice.whole_rows, slice.whole_cols);
    const Tensor mine =
        cast(slice.extract(of_state(name) ? state_->read(name) : file_.read(prefix_ + name)), dtype);
    const auto values = mine.values();
    for (std::int64_t i = 0; i < mine.size(); ++i)
      if (const double value = values[static_cast<std::size_t>(i)]; !std::isfinite(value)) {
        const auto [row, column] = slice.locate(i / mine.cols(), i % mine.cols());
        refuse(
            format("{} is {:g} at row {}, column {}: finite numbers would work", name, value, row, column));
      }
    return mine.to(Device::current());
  }
  // end read

  // begin configure
  /// What no shape tells stands in the metadata of our own checkpoints, and in the config.json that Hugging
  /// Face keeps beside its weights. A setting that changes what a GPT-2 computes, and that we do not have, is
  /// refused.
  void configure() {
    const auto beside = std::filesystem::path(file_.path()).parent_path() / "config.json";
    const bool own = file_.metadata().count("n_head") > 0;
    if (!own && !std::filesystem::exists(beside)) return;
    const auto config = own ? file_.metadata() : read_json(beside.string());
    const auto wrong = [&](const std::string& key, const std::string& fitting) {
      refuse(format("{} has the {} {}: {} would work", own ? "its header" : beside.string(), key,
                    config.at(key).substr(0, 100), fitting));
    };
    for (const auto& [key, ours] :
         std::map<std::string, std::string>{{"model_type", "gpt2"},
                                            {"activation_function", "gelu_new"},
                                            {"scale_attn_weights", "true"},
                                            {"scale_attn_by_inverse_layer_idx", "false"},
                                            {"add_cross_attention", "false"},
                                            {"n_layer", std::to_string(layers)},
                                            {"n_embd", std::to_string(width)},
                                            {"vocab_size", std::to_string(vocabulary)},
                                            {"n_positions", std::to_string(positions)}})
      if (config.count(key) > 0 && config.at(key) != ours) wrong(key, ours);
    char* end = nullptr;
    if (config.count("n_head") > 0) {
      heads = std::strtoll(config.at("n_head").c_str(), &end, 10);
      if (*end != '\0' || heads < 1 || width % heads != 0)
        wrong("n_head", format("a divisor of the width {}", width));
    }
    if (config.count("top_k") > 0) {
      top_k = std::strtoll(config.at("top_k").c_str(), &end, 10);
      if (*end != '\0' || top_k < 1 || top_k > std::max<std::int64_t>(1, experts))
        wrong("top_k", format("a number of its {} experts", experts));
    }
    if (config.count("layer_norm_epsilon") > 0) {
      layer_norm_epsilon = std::strtod(config.at("layer_norm_epsilon").c_str(), &end);
      if (*end != '\0' || !(layer_norm_epsilon > 0 && layer_norm_epsilon < 1))
        wrong("layer_norm_epsilon", "a number between 0 and 1");
    }
  }
  // end configure

  [[noreturn]] void refuse(const std::string& fault) const { throw UsageError("{}: {}", what_, fault); }

 private:
  void check_shape(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    const auto& entry = need(name);
    if (entry.rows != rows || entry.cols != cols || entry.dtype == DType::i32 || !entry.unreadable.empty())
      refuse(format("{}{}: ({}, {}) of floating point would work", name,
                    entry.unreadable.empty()
                        ? format(" is ({}, {}) {}", entry.rows, entry.cols, tessera::name(entry.dtype))
                        : entry.unreadable,
                    rows, cols));
  }
  /// Whether this tensor is of the optimiser's state, and so in the file beside the model's.
  bool of_state(const std::string& name) const { return state_ && name.starts_with("optimizer."); }
  const SafetensorsFile::Entry& need(const std::string& name) const {
    const SafetensorsFile& file = of_state(name) ? *state_ : file_;
    const std::string full = of_state(name) ? name : prefix_ + name;
    if (!file.has(full)) refuse(format("there is no {}; a GPT-2 with Hugging Face's names would work", name));
    return file.at(full);
  }

  std::string what_;
  SafetensorsFile file_;
  std::optional<SafetensorsFile> state_;
  std::string prefix_;
};

/// A slice of an initial weight, as GPT-2 has it but drawn uniformly: norms are the identity, biases are 0,
/// everything else is small.
inline Tensor random_weight(const std::string& name, const Slice& slice, DType dtype, std::uint64_t seed,
                            double scale) {
  const bool bias = name.ends_with("bias"), norm = is_vector(name) && !bias;
  const Tensor w = generate(seed, name, slice, dtype, Fill::uniform, is_vector(name) ? 0 : scale);
  return norm ? add_bias(w, Tensor::of(1, w.cols(),
                                       std::vector<double>(static_cast<std::size_t>(w.cols()), 1), dtype))
              : w;
}

/// Makes the initial weights of a model: those of `file`, or random ones where it is null.
inline MakeWeight initial_weights(const ModelConfig& config, const std::shared_ptr<const WeightsFile>& file,
                                  DType dtype, std::uint64_t seed) {
  if (file)
    return
        [file, dtype](const std::string& name, const Slice& slice) { return file->read(name, slice, dtype); };
  std::map<std::string, double> scales;
  for (const WeightInfo& info : weights_of(config)) scales[info.name] = 0.5 * info.scale;
  return [scales, dtype, seed](const std::string& name, const Slice& slice) {
    return random_weight(name, slice, dtype, seed, scales.at(name));
  };
}

}  // namespace tessera::gpt
