// What lesson 10 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "07_data_parallel/data_parallel.hpp"
#include "08_three_d/harness/proof.hpp"
#include "10_zero/sharded_optimizer.hpp"

namespace tessera::zero {

using gpt::Tokens;
using three_d::Config;
using three_d::Mesh;
using three_d::Trainer;

/// The whole batch on the host, and the microbatches of it that this rank computes.
struct Batch {
  Tokens whole;
  std::vector<Tokens> own;
};

/// The sequences of rank `rank`: a multiple of m of them, since each microbatch has equally many.
inline Range own_sequences(const Config& s, int rank, int ranks) {
  return data_parallel::own_rows(s.batch, rank, ranks, s.training.microbatches);
}

inline Batch make_batch(const Config& s, const Communicator& dp, std::uint64_t seed) {
  const auto [begin, end] = own_sequences(s, dp.rank(), dp.size());
  const Tokens whole = gpt::random_tokens(s.training.model, seed),
               own = gpt::rows_of(whole, {begin * s.seq(), end * s.seq()});
  return {whole, gpt::microbatches_of(own, s.training.microbatches)};
}

/// Lesson 08's trainer with the initial weights of the proof, whatever its stage. Peaks of memory count from
/// here on.
inline Trainer make_trainer(const Proof& proof, const Mesh& mesh, Config s, int stage) {
  use_in(s.training, stage);
  s.training.model.attention.options.batch =
      own_sequences(s, mesh.dp->rank(), mesh.sizes.dp).size() / s.training.microbatches;
  Trainer made(mesh, s.training, proof.dtype(), [&](const std::string& name, const Slice& slice) {
    const MemoryScope scope(MemoryKind::check);
    return proof.other_slice(name, slice);
  });
  if (MemoryScope::current() != MemoryKind::check) Device::current()->memory.reset_peak();
  return made;
}

/// Leaves the gradients of the whole batch with their owners. Returns the mean loss over its tokens.
inline double gradients(Trainer& trainer, const Batch& batch, const Config& s) {
  return sum_over(*trainer.mesh().dp, trainer.gradients(batch.own)) / s.training.model.tokens;
}

/// Trains on the same batch in every step. Returns the loss before each step.
inline std::vector<double> train(Trainer& trainer, const Batch& batch, const Config& s) {
  std::vector<double> losses;
  for (std::int64_t step = 0; step < s.steps; ++step) {
    losses.push_back(gradients(trainer, batch, s));
    trainer.step();
  }
  return losses;
}

/// The loss and every gradient of one step against those of the unsplit model.
inline void check_first_step(Proof& proof, const Mesh& mesh, const Config& s, const Batch& batch) {
  for (const auto& [name, rows, cols, scale] : gpt::weights_of(s.training.model))
    proof.weight(name, "??", Slice::nothing_of(rows, cols), scale);  // the trainer asks for its rows later
  Trainer trainer = make_trainer(proof, mesh, s, s.training.zero);
  const double loss = gradients(trainer, batch, s);
  gpt::check_step(proof, s.training.model, trainer.with_gradients(), loss,
                  "loss, the mean over all ranks' tokens", "gradients, each the sum over the ranks");
  proof.measured_baseline([whole = batch.whole, model = s.training.model](const auto& in) {
    return gpt::reference_step(in, model, whole);
  });
}

/// What the ranks send in the steps of the run and in the gradients of the first check.
inline void expect_traffic(Proof& proof, const Trainer& trainer, const Config& s) {
  const std::int64_t steps = s.steps + 1, d = s.sizes.dp;
  if (s.training.zero == 3)
    for (const bool forward : {true, false})
      expect_gathers(proof, s, forward ? "fwd" : "bwd", steps * s.training.microbatches, forward, "Psi");
  expect_sums_over_dp(proof, s, steps, trainer.optimizer().sums(), "Psi");
  if (s.training.clip > 0 && s.training.zero > 0 && s.steps > 0)
    proof.expect_traffic("norm", "all_reduce", "the norm", s.steps, s.steps * 2 * (d - 1) * 8, "2 (dp-1) 8",
                         "dp");
}

/// How far the weights of two trainers are apart.
struct Apart {
  double bits = 0;      // how many elements differ
  double distance = 0;  // the largest difference
};
/// Known on the first replica. Collective.
inline Apart apart(const Trainer& a, const Trainer& b) {
  Apart found;
  const gpt::TrainingState of_a = a.state(), of_b = b.state();
  for (std::size_t one = 0; one < a.parameters().size(); ++one) {
    const auto left = of_a.whole(0, one).values(), right = of_b.whole(0, one).values();
    if (a.mesh().dp->rank() != 0) continue;
    for (std::size_t i = 0; i < left.size(); ++i) found.bits += !(left[i] == right.at(i));
    found.distance = std::max(found.distance, three_d::largest_distance(left, right));
  }
  return found;
}

/// Checks the run against plain data parallelism, which is stage 0 on the same batches; its memory and bytes.
inline void check_run(Proof& proof, const Config& s, const Batch& batch, const Trainer& trainer,
                      const std::vector<double>& losses) {
  Communicator& dp = *trainer.mesh().dp;
  proof.measure_memory();
  expect_state(proof, trainer.mesh().place(), s.training, "Psi", s.steps > 0);
  expect_traffic(proof, trainer, s);
  check_overlap(proof, trainer, s.training, s.steps + 1);
  if (s.training.zero == 3 && s.training.prefetch && dp.size() > 1) {
    // Each pass prefetches all parts but its first. The head has two units, of which the forward prefetches
    // both and the backward none.
    double missed = s.training.microbatches * (s.steps + 1) * (2 * s.training.model.layers + 2);
    for (const Span& span : dp.journal().spans())
      missed -= span.category == "overlapped" && span.name.starts_with("all_gather");
    proof.claim("weights arrive while the part before computes", std::abs(missed), 0,
                "an all_gather was waited for at once: was the next part's posted before this one computed?");
  }
  const Journal before = dp.journal();
  if (s.steps > 0) {  // a check over 0 steps is no check
    const MemoryScope scope(MemoryKind::check);
    Trainer plain = make_trainer(proof, trainer.mesh(), s, 0);
    const std::vector<double> plain_losses = train(plain, batch, s);
    const Apart off = apart(trainer, plain);
    // The sums are taken in the same order, unless a transport, the microbatches or a norm over shards bring
    // another one. AdamW then turns the noise in the gradient of the keys' bias, which is zero, into steps.
    const bool same_order =
        dp.transport() == "threads" && s.training.microbatches == 1 && s.training.clip == 0;
    const std::string weights = format("weights after {} steps = plain data parallelism's", s.steps);
    if (same_order)
      proof.claim(weights + ", equal bits", off.bits, 0,
                  "was each shard stepped by its own rank, and gathered in the order of the ranks?");
    else if (proof.dtype() == DType::f64)
      proof.claim(weights, off.distance, s.training.microbatches == 1 ? 1e-12 : 1e-10,
                  "was a shard summed twice, or clipped by its own norm?");
    const double noise = proof.dtype() == DType::f64 ? 1e-12 : proof.coarse() ? 1e-2 : 1e-4;
    proof.claim(format("losses of {} steps = plain data parallelism's", s.steps),
                three_d::largest_distance(losses, plain_losses), same_order ? 0 : noise);
  }
  dp.journal() = before;  // these calls are in no table
  if (s.steps > 1)
    proof.claim("the loss has fallen", losses.back() < losses.front() ? 0 : 1, 0, "smaller --lr?");
}

/// The lesson's run with its checks, as main has it. Returns the losses.
inline std::vector<double> prove(Proof& proof, Communicator& world, const Config& s) {
  const Mesh mesh(world, s.sizes);
  const Batch batch = make_batch(s, *mesh.dp, proof.seed());
  check_first_step(proof, mesh, s, batch);
  Trainer trainer = make_trainer(proof, mesh, s, s.training.zero);
  const std::vector<double> losses = train(trainer, batch, s);
  check_run(proof, s, batch, trainer, losses);
  return losses;
}

}  // namespace tessera::zero
