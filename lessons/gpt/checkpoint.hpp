// A checkpoint does not depend on the cut: it holds whole tensors. The model is model.safetensors and
// config.json, as Hugging Face's transformers reads them. A file of its own has the state of the optimiser
// and all else that a run needs to go on. A run that resumes reads its slices of both, under any tp x pp x dp
// x ep.
#pragma once

#include <cmath>
#include <filesystem>

#include "app/gather.hpp"
#include "gpt/weights.hpp"

namespace tessera::gpt {

inline std::string in_folder(const std::string& folder, const std::string& name) {
  return (std::filesystem::path(folder) / name).string();
}
inline std::string model_file(const std::string& folder) { return in_folder(folder, "model.safetensors"); }

/// The prefixes of the names in a checkpoint: "" for the weights, which are in the model's file, then one for
/// each tensor that the optimiser keeps of a weight.
inline std::vector<std::string> state_prefixes(bool learns, bool adamw) {
  if (!learns) return {""};
  return adamw ? std::vector<std::string>{"", "optimizer.m.", "optimizer.v."}
               : std::vector<std::string>{"", "optimizer.velocity."};
}

/// What a rank holds of all that a training step reads and writes: tensors[k][i] belongs to prefixes[k] and
/// to parameter i. Where the replicas share the state out (lesson 10), tensors[k][i] has this rank's elements
/// of the parameter, from element begins[i] on.
struct TrainingState {
  std::vector<std::string> prefixes;
  std::vector<std::vector<Tensor>> tensors;
  std::int64_t steps = 0;
  std::vector<std::int64_t> begins;
  std::vector<Communicator*> holders;  // of each parameter: the ranks with the same weights
  bool shared = false;                 // the holders share the state out

  /// The whole of tensors[k][i] on the first of its holders, a collective call of these.
  Tensor whole(std::size_t k, std::size_t i) const {
    const Tensor& mine = tensors.at(k).at(i);
    if (!shared) return mine;
    const MemoryScope scope(MemoryKind::check);
    std::vector<double> all;
    for (const Tensor& part : gather_to_first(*holders[i], mine)) {
      const std::vector<double> values = part.values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return Tensor::of(1, std::ssize(all), all, mine.dtype());
  }
};

/// config.json: what transformers has to know of a model, in the words of its GPT2Config. It is "" for a
/// model with experts, or whose mask is not causal: transformers has no such GPT-2.
inline std::string config_json(const ModelConfig& m, DType dtype) {
  if (m.experts > 0 || m.attention.options.mask != Mask::causal) return "";
  return format(
      R"({{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
 "vocab_size": {}, "n_positions": {}, "n_embd": {}, "n_layer": {}, "n_head": {}, "n_inner": {},
 "layer_norm_epsilon": {}, "tie_word_embeddings": {}, "dtype": "{}", "attn_pdrop": 0, "embd_pdrop": 0,
 "resid_pdrop": 0, "bos_token_id": null, "eos_token_id": null}}
)",
      m.vocabulary, m.wpe_rows(), m.width(), m.layers, m.attention.heads, m.ffn(), m.layer_norm_epsilon,
      m.tied, dtype == DType::f64 ? "float64" : "float32");
}

// begin save
/// Rank 0 of `world` writes the state of all ranks into `folder`. Collective. The holders of a parameter have
/// the same values, so only the first one gives its slice. The optimiser's file is written first. Then the
/// model's file, which names it, replaces the last one in one step: whenever the process is killed, the
/// folder has a whole checkpoint. `run` goes into the optimiser's metadata.
inline void save_checkpoint(Communicator& world, const ModelConfig& config,
                            const std::vector<Parameter>& parameters, const TrainingState& state,
                            const std::string& folder, const std::map<std::string, std::string>& run) {
  const DType dtype = arithmetic(parameters.front().value.dtype());
  std::map<std::string, Tensor> model, optimizer;
  std::set<std::string> vectors;
  auto busy = world.rank() == 0 ? world.busy("writes the checkpoint") : nullptr;
  for (const WeightInfo& info : weights_of(config))
    for (std::size_t k = 0; k < state.prefixes.size(); ++k) {
      Slice slice = Slice::nothing_of(info.rows, info.cols);
      Tensor mine = Tensor::empty(0, 0, DType::f64);
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (parameters[i].name != info.name) continue;
        const Tensor whole = state.whole(k, i);
        if (state.holders[i]->rank() == 0) slice = parameters[i].slice, mine = whole;
      }
      const auto parts = gather_held(world, {{slice, cast(mine, DType::f64)}});
      if (world.rank() != 0) continue;
      const Device::Scope host(Device::host());
      const Tensor whole = Tensor::zeros(info.rows, info.cols, dtype);
      for (const Held& part : parts.front()) part.slice.insert(whole, cast(part.local, dtype));
      const std::string name = k > 0 ? state.prefixes[k] + info.name : name_in_file(info.name);
      (k > 0 ? optimizer : model)[name] = whole;
      if (is_vector(info.name)) vectors.insert(name);
    }
  if (world.rank() == 0) {
    const Device::Scope host(Device::host());
    std::filesystem::create_directories(folder);
    optimizer["optimizer.step"] = Tensor::of(1, 1, {static_cast<double>(state.steps)});
    const Tensor& wte = model.at(name_in_file("wte.weight"));
    const std::string of_run = format("optimizer-{}-{:08x}.safetensors", state.steps,
                                      crc32(wte.raw(), static_cast<std::uint64_t>(wte.bytes())));
    save_safetensors(in_folder(folder, of_run), optimizer, run, vectors);
    std::map<std::string, std::string> metadata = {
        {"format", "pt"},
        {"optimizer", of_run},
        {"model_type", "gpt2"},
        {"activation_function", "gelu_new"},
        {"n_head", std::to_string(config.attention.heads)},
        {"layer_norm_epsilon", format("{}", config.layer_norm_epsilon)}};
    if (config.experts > 0) metadata["top_k"] = std::to_string(config.top_k);
    save_safetensors(model_file(folder), model, metadata, vectors);
    const std::string json = config_json(config, dtype), path = in_folder(folder, "config.json");
    json.empty() ? void(std::filesystem::remove(path)) : write_file(path, json);
    for (const auto& old : std::filesystem::directory_iterator(folder))
      if (const std::string name = old.path().filename().string();
          name.starts_with("optimizer-") && name.ends_with(".safetensors") && name != of_run)
        std::filesystem::remove(old.path());
  }
  busy = nullptr;
  const Phase phase = world.phase("check");
  world.barrier();
}
// end save

/// The steps that a checkpoint has seen. Throws UsageError where its optimizer.step is no number of steps.
inline std::int64_t steps_of(const WeightsFile& file) {
  constexpr double most = 1 << 20;  // the largest --steps
  const double steps = file.read("optimizer.step", Slice::whole(1, 1), DType::f64).values()[0];
  if (!(steps >= 0 && steps < most && steps == std::floor(steps)))
    file.refuse(format("its optimizer.step is {:g}: a whole number below {:g} would work", steps, most));
  return static_cast<std::int64_t>(steps);
}

// begin load
/// Reads this rank's slices of what `save_checkpoint` wrote, under any cut, into the tensors of `state`.
/// Returns the steps that the checkpoint has seen. Throws UsageError where it has no such state.
inline std::int64_t load_state(const WeightsFile& file, const std::vector<Parameter>& parameters,
                               const TrainingState& state) {
  const MemoryScope scope(MemoryKind::check);
  for (std::size_t k = 0; k < state.prefixes.size(); ++k)
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Tensor& to = state.tensors[k][i];
      const Tensor all = file.read(state.prefixes[k] + parameters[i].name, parameters[i].slice, to.dtype());
      const std::int64_t begin = state.begins.at(i);
      to.copy_from(
          all.reshape(1, all.size()).column_range(begin, begin + to.size()).reshape(to.rows(), to.cols()));
    }
  return steps_of(file);
}
// end load

}  // namespace tessera::gpt
