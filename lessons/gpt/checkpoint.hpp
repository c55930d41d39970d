// A checkpoint knows no cut: it holds whole tensors with GPT-2's names in one safetensors file, and the state
// of the optimiser beside them. A run that resumes takes its slices of them, under any other tp x pp x dp.
#pragma once

#include <filesystem>

#include "app/gather.hpp"
#include "gpt/builder.hpp"
#include "tensor/safetensors.hpp"

namespace tessera::gpt {

inline std::string checkpoint_file(const std::string& folder) {
  return (std::filesystem::path(folder) / "checkpoint.safetensors").string();
}

/// What a rank holds of all that a training step reads and writes. `prefixes` has "" for the weights, then a
/// prefix for each tensor that the optimiser keeps of a weight; tensors[k][i] belongs to prefixes[k] and to
/// parameter i.
struct TrainingState {
  std::vector<std::string> prefixes;
  std::vector<std::vector<Tensor>> tensors;
  std::int64_t steps = 0;
};

// begin save
/// Writes the state of all ranks into `folder`; rank 0 of `world` does. Collective. Replicas hold the same,
/// so only the first one (`writes`) gives its slices. Until the new file is complete it has another name:
/// whenever the process is killed, the folder has a whole checkpoint.
inline void save_checkpoint(Communicator& world, bool writes, const ModelConfig& config,
                            const std::vector<Parameter>& parameters, const TrainingState& state,
                            const std::string& folder) {
  const DType dtype = arithmetic(parameters.front().value.dtype());
  std::map<std::string, Tensor> file;
  auto busy = world.rank() == 0 ? world.busy("writes the checkpoint") : nullptr;
  for (const WeightInfo& info : weights_of(config))
    for (std::size_t k = 0; k < state.prefixes.size(); ++k) {
      Slice slice = Slice::nothing_of(info.rows, info.cols);
      Tensor mine = Tensor::empty(0, 0, DType::f64);
      for (std::size_t i = 0; i < parameters.size() && writes; ++i)
        if (parameters[i].name == info.name) slice = parameters[i].slice, mine = state.tensors[k][i];
      const auto parts = gather_parts(world, slice, mine);
      if (world.rank() != 0) continue;
      const Device::Scope host(Device::host());
      const Tensor whole = Tensor::zeros(info.rows, info.cols, dtype);
      for (const RankResult& part : parts)
        if (!part.local.values.empty())
          part.slice.insert(whole, Tensor::of(part.local.rows, part.local.cols, part.local.values, dtype));
      file[state.prefixes[k] + info.name] = whole;
    }
  if (world.rank() == 0) {
    const Device::Scope host(Device::host());
    file["optimizer.step"] = Tensor::of(1, 1, {static_cast<double>(state.steps)});
    std::filesystem::create_directories(folder);
    save_safetensors(checkpoint_file(folder), file);
  }
  busy = nullptr;
  const Phase phase = world.phase("check");
  world.barrier();
}
// end save

// begin load
/// Reads this rank's slices of what `save_checkpoint` wrote, under whatever cut, into the tensors of `state`.
/// Returns the steps that the checkpoint has seen. Throws UsageError where it is of another model.
inline std::int64_t load_checkpoint(const ModelConfig& config, const std::vector<Parameter>& parameters,
                                    const TrainingState& state, const std::string& folder) {
  const MemoryScope scope(MemoryKind::check);
  const SafetensorsFile file(checkpoint_file(folder));
  const auto take = [&](const std::string& name, const Tensor& to, const Slice& slice) {
    if (!file.has(name))
      throw UsageError(
          format("--resume {}: there is no {}; a checkpoint of the same --layers and --optimizer would work",
                 folder, name));
    const Tensor whole = file.read(name);
    if (whole.rows() != slice.whole_rows || whole.cols() != slice.whole_cols || whole.dtype() == DType::i32)
      throw UsageError(
          format("--resume {}: {} is {}, this model's is ({}, {}): a checkpoint of the same sizes would work",
                 folder, name, shape(whole), slice.whole_rows, slice.whole_cols));
    to.copy_from(cast(slice.extract(whole), to.dtype()));
  };
  if (file.has(format("h.{}.ln_1.weight", config.layers)))
    throw UsageError(format("--resume {}: has more than {} layers", folder, config.layers));
  for (std::size_t k = 0; k < state.prefixes.size(); ++k)
    for (std::size_t i = 0; i < parameters.size(); ++i)
      take(state.prefixes[k] + parameters[i].name, state.tensors[k][i], parameters[i].slice);
  if (!file.has("optimizer.step")) throw UsageError("--resume " + folder + ": there is no optimizer.step");
  return static_cast<std::int64_t>(file.read("optimizer.step").values().at(0));
}
// end load

}  // namespace tessera::gpt
