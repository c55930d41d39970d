// What lesson 06 claims, and how it is checked and measured:
// used by its main, by the tests and by ./tessera verify.
#pragma once

#include "06_pipeline/harness/measure.hpp"
#include "06_pipeline/validate.hpp"
#include "app/proof.hpp"
#include "gpt/harness/reference.hpp"
#include "gpt/tokens.hpp"

namespace tessera::pipeline {

struct Config {
  ModelConfig model;
  Schedule schedule = Schedule::one_f_one_b;
  int microbatches = 8, chunks = 1, steps = 1;
  Partition partition;  // of the virtual stages
  bool recompute = false, blocking = false;
  double pace = 0;  // seconds for a stage's forward of a microbatch

  Plan plan(int stages) const {
    const Plan plan = make_plan(schedule, stages, microbatches, chunks);
    return blocking ? with_blocking_sends(plan) : with_asynchronous_sends(plan);
  }
};

/// Runs `steps` steps, checks the last one's loss and gradients against the whole model's,
/// and returns what was measured.
inline Measured prove(Proof& proof, Communicator& comm, const Config& s) {
  const int p = comm.size(), r = comm.rank(), virtual_stages = p * s.chunks;
  const Plan plan = s.plan(p);
  if (!s.blocking) check(plan, s.microbatches, s.chunks);
  const auto alone = comm.split(r, 0, "tp");  // a tensor-parallel group of one
  const TensorParallel tp(*alone);
  std::map<std::string, double> scales;
  const std::vector<gpt::WeightInfo> infos = gpt::weights_of(s.model);
  for (const gpt::WeightInfo& info : infos) scales[info.name] = info.scale;
  gpt::Builder builder(s.model, tp, [&](const std::string& name, const Slice& slice) {
    return proof.weight(name, "??", slice, scales.at(name));
  });
  std::vector<gpt::Chunk> chunks;
  for (int c = 0; c < s.chunks; ++c) {
    const int at = virtual_stage(c, r, p);
    chunks.push_back(builder.chunk(layers_of(s.partition, at), at == 0, at == virtual_stages - 1));
    chunks.back().recompute = s.recompute;
  }
  const Tokens batch = gpt::random_tokens(s.model, proof.seed());
  const std::vector<Tokens> microbatches = gpt::microbatches_of(batch, s.microbatches);
  WorkerOf<> worker(comm, tp, chunks, s.model, proof.dtype());
  std::vector<Measured> runs;
  Trace trace;
  for (int step = 0; step < s.steps; ++step) {
    for (const gpt::Parameter& parameter : builder.parameters) parameter.gradient.zero();
    comm.barrier();
    trace = run_timed(worker, plan[static_cast<std::size_t>(r)], microbatches, comm.journal(),
                      {s.pace / s.chunks});
    runs.push_back(gather(comm, trace));
  }
  journal_steps(comm.journal(), trace, r, p);
  proof.measure_memory();

  std::map<std::string, const gpt::Parameter*> own;
  for (const gpt::Parameter& parameter : builder.parameters) own[parameter.name] = &parameter;
  const bool last = chunks.back().head.has_value();
  const double loss = trace.loss / static_cast<double>(s.model.tokens);
  proof.result("loss", "11", "loss",
               last ? Tensor::of(1, 1, {loss}, DType::f64) : Tensor::empty(0, 0, DType::f64),
               last ? Slice::whole(1, 1) : Slice::nothing_of(1, 1));
  std::int64_t whole = 0, mine = 0;
  for (const auto& [name, rows, cols, scale] : infos) {
    const Slice nothing = Slice::nothing_of(rows, cols);
    whole += rows * cols;
    if (const auto found = own.find(name); found != own.end()) {
      mine += found->second->value.size();
      proof.result("d" + name, "??", "d" + name, found->second->gradient, found->second->slice, "gradients");
    } else {
      proof.weight(name, "??", nothing, scale);  // rank 0 must know of it
      proof.result("d" + name, "??", "d" + name, Tensor::empty(0, 0, proof.dtype()), nothing, "gradients");
    }
  }
  proof.measured_baseline(
      [=, model = s.model](const auto& in) { return gpt::reference_step(in, model, batch); });
  const auto right = std::make_shared<Named<Tensor>>();  // computed where a check fails, once
  for (const gpt::WeightInfo& info : infos)
    proof.mistake("d" + info.name,
                  format("d{} is m = {} times too large: was the loss divided by one microbatch's tokens?",
                         info.name, s.microbatches),
                  [=, model = s.model, m = s.microbatches, name = "d" + info.name](const auto& in, int) {
                    if (right->empty()) *right = gpt::reference_step(in, model, batch).results;
                    return scale(right->at(name), m);
                  });
  const std::int64_t e = proof.element_bytes(), boundaries = virtual_stages - 1;
  for (const auto& [phase, what] : {std::pair{"fwd", "activations"}, {"bwd", "gradients"}})
    if (boundaries > 0)
      proof.expect_traffic(phase, "send", what, boundaries * s.steps * s.microbatches,
                           s.steps * boundaries * s.model.tokens * s.model.width() * e,
                           format("{}({}p-1) {} m n W", s.steps > 1 ? format("{} x ", s.steps) : "",
                                  s.chunks > 1 ? "v " : "", e));
  for (const auto& [kind, label] :
       {std::pair{MemoryKind::weight, "its layers' weights"}, {MemoryKind::gradient, "their gradients"}})
    proof.expect_memory(kind, label, whole * e, mine * e, format("{} x (layers (12 W W + 13 W) + ends)", e));
  if (r != 0) return {};
  std::sort(runs.begin(), runs.end(),
            [](const Measured& a, const Measured& b) { return a.timeline.bubble() < b.timeline.bubble(); });
  return runs[runs.size() / 2];
}

}  // namespace tessera::pipeline
