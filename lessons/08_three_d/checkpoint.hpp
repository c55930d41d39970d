// A checkpoint knows no cut: whole tensors with GPT-2's names in one safetensors file, the optimiser's state
// beside them. Whoever resumes takes its slices, under any other tp x pp x dp.
#pragma once

#include <filesystem>

#include "08_three_d/trainer.hpp"
#include "app/proof.hpp"
#include "tensor/safetensors.hpp"

namespace tessera::three_d {

inline std::string checkpoint_file(const std::string& folder) {
  return (std::filesystem::path(folder) / "checkpoint.safetensors").string();
}

// begin save
/// Writes the state of all ranks; rank 0 does. Until the new file is complete it has another name: whenever
/// the process is killed, the folder has a whole checkpoint. Collective.
inline void save(Communicator& world, const Mesh& mesh, const Trainer& trainer, const Training& training,
                 const std::string& folder) {
  auto busy = world.rank() == 0 ? world.busy("writes the checkpoint") : nullptr;
  std::map<std::string, Tensor> file;
  for (const auto& info : pipeline::weights_of(training.model))
    for (const auto& [prefix, tensors] : trainer.state()) {
      const Parameter* own = nullptr;  // of the replicas the first one's
      std::size_t index = 0;
      for (std::size_t i = 0; i < trainer.parameters().size() && mesh.dp->rank() == 0; ++i)
        if (trainer.parameters()[i].name == info.name) own = &trainer.parameters()[index = i];
      const Slice slice = own != nullptr ? own->slice : Slice::nothing_of(info.rows, info.cols);
      const Tensor mine = own != nullptr ? tensors[index] : Tensor::empty(0, 0, DType::f64);
      const auto parts = gather_parts(world, slice, mine);
      if (world.rank() != 0) continue;
      const Device::Scope host(Device::host());
      const Tensor whole = Tensor::zeros(info.rows, info.cols, trainer.dtype());
      for (const RankResult& part : parts)
        if (!part.local.values.empty())
          part.slice.insert(whole,
                            Tensor::of(part.local.rows, part.local.cols, part.local.values, trainer.dtype()));
      file[prefix + info.name] = whole;
    }
  if (world.rank() == 0) {
    const Device::Scope host(Device::host());
    file["optimizer.step"] = Tensor::of(1, 1, {static_cast<double>(trainer.steps())});
    std::filesystem::create_directories(folder);
    save_safetensors(checkpoint_file(folder), file);
  }
  busy = nullptr;
  const Phase phase = world.phase("check");
  world.barrier();
}
// end save

// begin resume
/// This rank's slices of what `save` wrote, under whatever cut.
/// Throws UsageError where it is of another model.
inline void resume(Trainer& trainer, const Training& training, const std::string& folder) {
  const MemoryScope scope(MemoryKind::check);
  const SafetensorsFile file(checkpoint_file(folder));
  const auto take = [&](const std::string& name, const Tensor& to, const Slice& slice) {
    if (!file.has(name))
      throw UsageError(str("--resume ", folder, ": there is no ", name,
                           "; a checkpoint of the same --layers and --optimizer would work"));
    const Tensor whole = file.read(name);
    if (whole.rows() != slice.whole_rows || whole.cols() != slice.whole_cols || whole.dtype() == DType::i32)
      throw UsageError(str("--resume ", folder, ": ", name, " is ", shape(whole), ", this model's is (",
                           slice.whole_rows, ", ", slice.whole_cols,
                           "): a checkpoint of the same sizes would work"));
    to.copy_from(cast(slice.extract(whole), to.dtype()));
  };
  if (file.has(str("h.", training.model.layers, ".ln_1.weight")))
    throw UsageError(str("--resume ", folder, ": has more than ", training.model.layers, " layers"));
  for (std::size_t i = 0; i < trainer.parameters().size(); ++i)
    for (const auto& [prefix, tensors] : trainer.state())
      take(prefix + trainer.parameters()[i].name, tensors[i], trainer.parameters()[i].slice);
  if (!file.has("optimizer.step")) throw UsageError("--resume " + folder + ": there is no optimizer.step");
  trainer.resume_at(static_cast<std::int64_t>(file.read("optimizer.step").values().at(0)));
}
// end resume

}  // namespace tessera::three_d
