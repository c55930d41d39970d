// What lesson 06 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "06_pipeline/harness/measure.hpp"
#include "06_pipeline/validate.hpp"
#include "gpt/harness/proof.hpp"
#include "gpt/tokens.hpp"

namespace tessera::pipeline {

struct Config {
  ModelConfig model;
  Schedule schedule = Schedule::one_f_one_b;
  int microbatches = 8, chunks = 1, steps = 1;
  Partition partition;  // of the virtual stages
  bool recompute = false, blocking = false;
  double pace = 0;  // seconds for a stage's forward of a microbatch; 0: as fast as it goes

  int virtual_stages() const { return partition.size(); }
  int stages() const { return virtual_stages() / chunks; }
  Plan plan() const {
    const Plan plan = make_plan(schedule, stages(), microbatches, chunks);
    return blocking ? with_blocking_sends(plan) : with_asynchronous_sends(plan);
  }
  /// The time of a chunk's forward, and of its dX and of its dW: seconds with a pace, else the unit of time.
  double tick() const { return pace > 0 ? pace / chunks : 1; }
  /// The timeline of equal stages.
  Timeline predicted() const {
    return simulate(plan(), Costs::equal(virtual_stages(), tick(), tick(), tick()));
  }
  double bubble_predicted() const {
    return pipeline::bubble_predicted(schedule, stages(), microbatches, chunks);
  }
  std::vector<std::int64_t> in_flight_predicted() const {
    std::vector<std::int64_t> all;
    for (int r = 0; r < stages(); ++r)
      all.push_back(pipeline::in_flight_predicted(schedule, stages(), microbatches, chunks, r));
    return all;
  }
};

/// What a rank needs for a step: the layers of its stage, and the microbatches.
struct Stage {
  std::unique_ptr<Communicator> alone;
  TensorParallel tp;  // of one rank: no matrix is cut
  std::vector<Chunk> chunks;
  std::vector<gpt::Parameter> parameters;
  Tokens batch;
  std::vector<Tokens> microbatches;
};

/// The chunks of this rank with their slices of the proof's weights, and a made-up batch.
inline Stage build(Proof& proof, Communicator& pp, const Config& s) {
  auto alone = pp.split(pp.rank(), 0, "tp");
  const TensorParallel tp(*alone);
  gpt::Builder builder(s.model, tp, gpt::make_weights(proof, s.model));
  std::vector<Chunk> chunks;
  for (int c = 0; c < s.chunks; ++c) {
    const int at = virtual_stage(c, pp.rank(), pp.size());
    chunks.push_back(builder.chunk(layers_of(s.partition, at), at == 0, at == s.virtual_stages() - 1));
    chunks.back().recompute = s.recompute;
  }
  const Tokens batch = gpt::random_tokens(s.model, proof.seed());
  proof.dump("ids", batch.ids), proof.dump("targets", batch.targets);
  return {std::move(alone),   tp,    chunks,
          builder.parameters, batch, gpt::microbatches_of(batch, s.microbatches)};
}

/// Lets the worker execute this stage's list of the plan, in `s.steps` steps under the clock. Returns the
/// step with the median bubble: the loss on every rank, all else on rank 0.
inline Measured run_steps(Worker& worker, const Plan& plan, Communicator& pp, const Stage& stage,
                          const Config& s) {
  const Instructions& list = plan[pp.rank()];
  std::vector<Measured> runs;
  Trace trace;
  for (int step = 0; step < s.steps; ++step) {
    for (const gpt::Parameter& parameter : stage.parameters) parameter.gradient.zero();
    pp.barrier();
    trace = run_timed(worker, list, stage.microbatches, pp.journal(), s.pace / s.chunks);
    runs.push_back(gather(pp, plan, trace));
  }
  journal_steps(pp.journal(), trace, pp.rank(), pp.size());
  if (pp.rank() == 0) std::ranges::sort(runs, {}, [](const Measured& run) { return run.timeline.bubble(); });
  Measured found = runs[runs.size() / 2];
  found.loss = sum_over(pp, trace.loss) / s.model.tokens;
  return found;
}

/// The claims about the schedule: what rank 0 has measured, and what the lists say by themselves.
inline void check_schedule(Proof& proof, const Config& s, const Measured& found) {
  const std::vector<std::int64_t> law = s.in_flight_predicted();
  proof.claim("in flight = the formula", found.in_flight == law ? 0 : 1, 0,
              format("the stages hold {} microbatches, and their schedule says {}",
                     join(found.in_flight, " "), join(law, " ")));
  if (!s.blocking)
    proof.claim("simulated bubble = the formula", std::abs(s.predicted().bubble() - s.bubble_predicted()),
                1e-9, "the lists idle longer than the schedule must: is the warm-up too short?");
}

/// The loss and every gradient against the unsplit model's, and bytes, memory and schedule against their
/// formulas.
inline void check(Proof& proof, Communicator& pp, const Config& s, const Stage& stage,
                  const Measured& found) {
  proof.measure_memory();
  gpt::check_step(proof, s.model, stage.parameters, found.loss);
  const auto reference = [model = s.model, batch = stage.batch](const Inputs<Tensor>& in) {
    return gpt::reference_step(in, model, batch);
  };
  proof.measured_baseline(reference);
  const auto right = std::make_shared<Named<Tensor>>();  // computed where a check fails, once
  for (const gpt::WeightInfo& info : gpt::weights_of(s.model))
    proof.mistake("d" + info.name,
                  format("d{} is m = {} times too large: was the loss divided by one microbatch's tokens?",
                         info.name, s.microbatches),
                  [=, m = s.microbatches, name = "d" + info.name](const auto& in, int) {
                    if (right->empty()) *right = reference(in).results;
                    return scale(right->at(name), m);
                  });

  const std::int64_t e = proof.element_bytes(), boundaries = s.virtual_stages() - 1;
  for (const auto& [phase, what] : {std::pair{"fwd", "activations"}, {"bwd", "gradients"}})
    if (boundaries > 0)
      proof.expect_traffic(phase, "send", what, boundaries * s.steps * s.microbatches,
                           s.steps * boundaries * s.model.tokens * s.model.width() * e,
                           format("{}({}p-1) {} m n W", s.steps > 1 ? format("{} x ", s.steps) : "",
                                  s.chunks > 1 ? "v " : "", e));
  proof.expect_weights("its layers' weights", "their gradients", gpt::elements_of(s.model),
                       gpt::elements_of(stage.parameters), "x (layers (12 W W + 13 W) + embedding, head)");
  if (pp.rank() == 0) check_schedule(proof, s, found);
}

/// The lesson's run with its checks, as main makes it.
inline Measured prove(Proof& proof, Communicator& pp, const Config& s) {
  const Plan plan = s.plan();
  if (!s.blocking) check(plan, s.microbatches, s.chunks);
  const Stage stage = build(proof, pp, s);
  Worker worker(pp, stage.tp, stage.chunks, s.model, proof.dtype());
  const Measured found = run_steps(worker, plan, pp, stage, s);
  check(proof, pp, s, stage, found);
  return found;
}

}  // namespace tessera::pipeline
