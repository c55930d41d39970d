// Training: a run of the cut model, and the runs under other cuts beside it.
#pragma once

#include "08_three_d/checkpoint.hpp"
#include "08_three_d/forward.hpp"

namespace tessera::three_d {

/// A step's loss that is no number ends the run. What was saved before is good: see train.
inline void expect_finite(double loss, std::int64_t step, const Config& s) {
  if (std::isfinite(loss)) return;
  throw Error(format("the loss of step {} is {}: a smaller --lr, or --clip 1, would help{}", step + 1, loss,
                     s.save.empty() ? "" : "; the last checkpoint in " + s.save + " stays"));
}

/// What the next step will find, forward only.
inline double next_loss(const Trainer& trainer, const Config& s, std::uint64_t seed) {
  const Phase phase = trainer.mesh().pp->phase("check");
  const MemoryScope scope(MemoryKind::check);
  double sum = 0;
  for (const Tokens& one : own_microbatches(batch_of(s, seed, trainer.steps()), s, trainer.mesh()))
    if (const Forward out = forward(trainer, one); out.losses.defined())
      for (const double loss : out.losses.values()) sum += loss;
  return sum_over_dp_and_pp(sum, trainer.mesh()) / static_cast<double>(s.training.model.tokens);
}

/// Steps from where the trainer is up to `steps`: the losses, each before its step. Saves where the setup
/// says so, and only a model that still has a loss: the step before may have broken it.
inline std::vector<double> train(
    Communicator& world, const Mesh& mesh, Trainer& trainer, const Config& s, std::uint64_t seed,
    const std::function<void(std::int64_t step)>& on_progress = [](std::int64_t) {}) {
  std::vector<double> losses;
  while (trainer.steps() < s.steps) {
    const std::int64_t step = trainer.steps();
    const double sum = trainer.gradients(own_microbatches(batch_of(s, seed, step), s, mesh));
    losses.push_back(sum_over_dp_and_pp(sum, mesh) / static_cast<double>(s.training.model.tokens));
    expect_finite(losses.back(), step, s);
    trainer.step();
    const bool due = s.every > 0 ? trainer.steps() % s.every == 0 : trainer.steps() == s.steps;
    if (!s.save.empty() && due) {
      expect_finite(next_loss(trainer, s, seed), trainer.steps(), s);
      save(world, mesh, trainer, s.training, s.save);
    }
    on_progress(step);
  }
  return losses;
}

/// The same run under another cut, from the same beginning: unsplit, or along one axis. Nothing of it is
/// booked as the model's, and nothing saved.
inline void run_with_layout(Communicator& world, Config s, const ParallelSizes& sizes, DType dtype,
                            std::uint64_t seed,
                            const std::function<void(Mesh&, Trainer&, const Config&)>& use) {
  const MemoryScope scope(MemoryKind::check);
  s.training.microbatches *= s.sizes.dp / sizes.dp;  // the same microbatches
  if (sizes.pp == 1) s.training.chunks = 1, s.training.schedule = pipeline::Schedule::one_f_one_b;
  s.sizes = sizes;
  s.save.clear();
  Mesh mesh(world, sizes, world.name() + "-");
  Trainer trainer(mesh, s.training, dtype, initial_weights(s, dtype, seed));
  if (!s.resume.empty()) resume(trainer, s.training, s.resume);
  use(mesh, trainer, s);
}

}  // namespace tessera::three_d
