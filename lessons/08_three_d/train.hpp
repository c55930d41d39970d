// The training loop.
#pragma once

#include "08_three_d/generate.hpp"

namespace tessera::three_d {

/// A trainer with the initial weights of `s`, or the state of the checkpoint that it resumes.
inline Trainer make_trainer(const Mesh& mesh, const Config& s, DType dtype, std::uint64_t seed,
                            MemoryKind weights = MemoryKind::weight) {
  const MemoryScope scope(weights);
  TrainingConfig training = s.training;
  training.learns = !s.eval;  // an evaluation has neither gradients nor an optimiser
  Trainer trainer(mesh, training, dtype, gpt::initial_weights(s.training.model, s.weights, dtype, seed));
  if (!s.resume.empty()) trainer.resume(*s.weights);
  return trainer;
}

/// Throws Error where a step's loss is not finite. The checkpoints that were saved before hold a good model.
inline void expect_finite(double loss, std::int64_t step, const Config& s) {
  if (std::isfinite(loss)) return;
  throw Error(format("the loss of step {} is {:g}: a smaller --lr, or --clip 1, would help{}", step + 1, loss,
                     s.save.empty() ? "" : "; the last checkpoint in " + s.save + " stays"));
}

/// The loss that the next step will find, by a forward pass alone.
inline double next_loss(const Trainer& trainer, const Config& s, std::uint64_t seed) {
  const CheckScope scope(*trainer.mesh().pp);
  double sum = 0;
  for (const Tokens& one : own_microbatches(batch_of(s, seed, trainer.steps()), s, trainer))
    if (const Forward out = trainer.forward(one); out.losses.defined())
      for (const double loss : out.losses.values()) sum += loss;
  return mean_loss(sum, s, trainer.mesh());
}

/// What a run has found, the same on every rank.
struct Results {
  std::vector<double> losses;       // of each step, before it
  double loss = 0;                  // --eval: over the whole text
  std::vector<std::uint16_t> text;  // --sample
  double tokens_per_second = 0;     // of the training
};

inline constexpr int code_line = __LINE__ + 5;
// begin train
/// Trains up to step s.steps, from where the trainer is. Returns the loss of each step, taken before it.
/// Saves every s.every steps and at the end, but only a model that still has a loss: a step may have broken
/// it.
inline std::vector<double> train(
    Communicator& world, Trainer& trainer, const Config& s, std::uint64_t seed,
    const std::function<void(std::int64_t done)>& on_progress = [](std::int64_t) {}) {
  const auto save = [&] {
    if (s.save.empty()) return;
    expect_finite(next_loss(trainer, s, seed), trainer.steps(), s);
    trainer.save(world, s.save, configuration(s, seed));
  };
  std::vector<double> losses;
  for (std::int64_t step = trainer.steps(); step < s.steps; ++step) {
    if (s.every > 0 && step % s.every == 0 && !losses.empty()) save();
    const auto microbatches = own_microbatches(batch_of(s, seed, step), s, trainer);
    const double sum = trainer.gradients(microbatches);   // forward, backward, all-reduces
    losses.push_back(mean_loss(sum, s, trainer.mesh()));  // of all tokens, on every rank
    expect_finite(losses.back(), step, s);
    trainer.step();  // the optimiser
    on_progress(step + 1);
  }
  save();
  return losses;
}
// end train

/// The whole run: trains, or evaluates a model that does not learn; then writes a text. Collective.
/// `on_progress` is told how many steps, or microbatches of the evaluation, are done.
inline Results run(
    Communicator& world, Trainer& trainer, const Config& s, std::uint64_t seed,
    const std::function<void(std::int64_t done)>& on_progress = [](std::int64_t) {}) {
  Results found;
  if (s.eval) {
    found.loss = evaluate(trainer, s, on_progress);
  } else {
    const double began = world.journal().now();
    found.losses = train(world, trainer, s, seed, on_progress);
    found.tokens_per_second = static_cast<double>(found.losses.size()) *
                              static_cast<double>(s.training.model.tokens) / (world.journal().now() - began);
  }
  if (s.sample > 0) found.text = sample(trainer, s, seed);
  return found;
}

}  // namespace tessera::three_d
