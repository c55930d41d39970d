// What a rank holds and sends in a training step, as the counters say. No formula is used here.
#pragma once

#include "08_three_d/generate.hpp"

namespace tessera::three_d {

struct CountedStep {
  std::vector<double> held;            // bytes of this rank, in the order of MemoryKind, without checks
  std::map<TrafficKey, Traffic> sent;  // by this rank, without checks
};

/// Counts the second of two steps of `s`, which is like all that follow. What ZeRO cuts counts at its peak,
/// since it is whole for a moment; activations count where they are most between two instructions. `batch`
/// gives the tokens of a step. Collective; the journal has the second step afterwards.
inline CountedStep count_step(const Mesh& mesh, const Config& s, DType dtype, std::uint64_t seed,
                              const std::function<Tokens(int step)>& batch) {
  Trainer trainer(mesh, s.training, dtype, gpt::initial_weights(s.training.model, nullptr, dtype, seed));
  Journal& journal = mesh.tp->journal();
  MemoryLedger& memory = Device::current()->memory;
  std::int64_t activations = 0;
  pipeline::WorkerHooks hooks;
  hooks.after = [&](const pipeline::Instruction&) {
    activations = std::max(activations, memory.now(MemoryKind::activation));
  };
  for (const int step : {0, 1}) {
    if (step == 1) journal.clear(), memory.reset_peak();
    trainer.gradients(own_microbatches(batch(step), s, trainer), hooks);
    trainer.step();
  }
  const auto held = [&](MemoryKind kind, int cut_from) {
    return double(s.training.zero >= cut_from ? memory.peak(kind) : memory.now(kind));
  };
  CountedStep counted{{held(MemoryKind::weight, 3), held(MemoryKind::gradient, 2),
                       held(MemoryKind::optimizer, 4), double(activations)},
                      journal.traffic()};
  std::erase_if(counted.sent, [](const auto& one) { return one.first.phase == "check"; });
  return counted;
}

}  // namespace tessera::three_d
