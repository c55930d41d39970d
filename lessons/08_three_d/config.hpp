// What a run on text is asked to do, and the batches of it that every cut of the model sees alike.
#pragma once

#include "08_three_d/trainer.hpp"
#include "gpt/tokens.hpp"
#include "gpt/weights.hpp"

namespace tessera::three_d {

struct Config {
  ParallelSizes sizes{2, 2, 2};
  TrainingConfig training;
  std::int64_t batch = 16, steps = 20;  // sequences of a step
  gpt::Corpus text;
  std::shared_ptr<const gpt::WeightsFile> weights;  // where the model begins; null: at random
  std::string save, resume;                         // folders, "" for none
  std::int64_t every = 0;                           // steps between checkpoints; 0: one at the end
  bool eval = false;                                // no training: the loss over the whole text
  std::int64_t sample = 0;                          // tokens to write in the end
  double temperature = 1;

  std::int64_t seq() const { return training.model.seq(); }
};

/// The sequences of step `step`, the same for every cut. (batch seq, 1), on the host.
inline Tokens batch_of(const Config& s, std::uint64_t seed, std::int64_t step) {
  return gpt::batch_at(s.text, s.batch, s.seq(), seed, step);
}

/// The microbatches of `batch` that this rank computes: those of its replica, with ids counted from the first
/// one of its shard of the vocabulary.
inline std::vector<Tokens> own_microbatches(const Tokens& batch, const Config& s, const Trainer& trainer) {
  const int m = s.training.microbatches, first = trainer.mesh().dp->rank() * m;
  const auto all = gpt::microbatches_of(batch, m * trainer.mesh().sizes.dp);
  std::vector<Tokens> mine;
  for (int i = first; i < first + m; ++i)
    mine.push_back(gpt::local_tokens(all.at(static_cast<std::size_t>(i)), s.training.model, trainer.tp()));
  return mine;
}

/// The sum of what the last stages of all replicas have found, on every rank. The other stages give 0.
inline double sum_over_dp_and_pp(double own, const Mesh& mesh) {
  return sum_over(*mesh.pp, sum_over(*mesh.dp, own));
}

/// The mean over all tokens of the batch, on every rank, of the losses whose sum over this rank's tokens is
/// `own`.
inline double mean_loss(double own, const Config& s, const Mesh& mesh) {
  return sum_over_dp_and_pp(own, mesh) / static_cast<double>(s.training.model.tokens);
}

}  // namespace tessera::three_d
