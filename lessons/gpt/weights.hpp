// GPT-2's own weights: a safetensors file with Hugging Face's names, read into any cut. A rank reads one
// whole tensor at a time and keeps its slice of it: no rank ever holds the model, which is why one cuts.
#pragma once

#include <cstring>
#include <map>
#include <memory>

#include "gpt/builder.hpp"
#include "tensor/safetensors.hpp"

namespace tessera::gpt {

class WeightsFile {
 public:
  /// Throws UsageError where it is no GPT-2. The sizes stand in the shapes.
  explicit WeightsFile(const std::string& path) : file_(path) {
    if (file_.has("transformer.wte.weight"))
      prefix_ = "transformer.";  // GPT2LMHeadModel's; GPT2Model has none
    const auto& wte = need("wte.weight");
    vocabulary = wte.rows, width = wte.cols, positions = need("wpe.weight").rows;
    while (file_.has(prefix_ + format("h.{}.ln_1.weight", layers))) ++layers;
  }

  std::int64_t vocabulary = 0, width = 0, positions = 0, layers = 0;
  const std::string& path() const { return file_.path(); }

  // begin check
  /// Every weight of `config` is there in its shape, and nothing else that a GPT-2 would compute with.
  void check(ModelConfig config) const {
    config.attention.options.seq = positions;
    std::size_t known = 0;
    for (const auto& [name, rows, cols, scale] : weights_of(config)) {
      const auto& entry = need(name);
      if (entry.rows != rows || entry.cols != cols || entry.dtype == DType::i32 || !entry.unreadable.empty())
        refuse(format("{}{}: ({}, {}) in BF16, F32 or F64 would work", name,
                      entry.unreadable.empty()
                          ? format(" is ({}, {}) {}", entry.rows, entry.cols, tessera::name(entry.dtype))
                          : entry.unreadable,
                      rows, cols));
      ++known;
    }
    for (const auto& [name, entry] : file_.entries()) {
      const bool mask = name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
      known += mask || name == "lm_head.weight" || name.starts_with("optimizer.");  // of our own checkpoints
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
  /// This slice of a weight. Of wpe a model of shorter sequences has the first rows.
  Tensor read(const std::string& name, const Slice& slice, DType dtype) const {
    const Tensor whole = file_.read(prefix_ + name).row_range(0, slice.whole_rows);
    return cast(slice.extract(whole), dtype).to(Device::current());
  }
  // end read

 private:
  [[noreturn]] void refuse(const std::string& fault) const {
    throw UsageError(format("--weights {}: {}", path(), fault));
  }
  const SafetensorsFile::Entry& need(const std::string& name) const {
    if (!file_.has(prefix_ + name))
      refuse(format("there is no {}; a GPT-2 with Hugging Face's names would work", name));
    return file_.at(prefix_ + name);
  }

  SafetensorsFile file_;
  std::string prefix_;
};

/// As GPT-2 begins, but uniform: norms are the identity, biases are 0, everything else is small.
inline Tensor random_weight(const std::string& name, const Slice& slice, DType dtype, std::uint64_t seed,
                            double scale) {
  const bool norm = name.find("ln_") != std::string::npos, bias = name.ends_with("bias");
  const Tensor w = generate(seed, name, slice, dtype, Fill::uniform, bias || norm ? 0 : scale);
  return norm && !bias
             ? add_bias(w, Tensor::of(1, w.cols(), std::vector<double>(static_cast<std::size_t>(w.cols()), 1),
                                      dtype))
             : w;
}

/// Where a model begins: as `file` says, or, where it is null, at random.
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
