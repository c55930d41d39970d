// What is asked of the planner, and a cut that may answer it: in terms of the configuration that lesson 08's
// trainer takes, so that its formulas hold here too.
#pragma once

#include "08_three_d/config.hpp"
#include "14_plan/machine.hpp"
#include "app/flags.hpp"

namespace tessera::plan {

using gpt::ModelConfig;
using three_d::ParallelSizes;

/// What the backward computes a second time instead of keeping it. selective: the scores of attention
/// (Korthikanti et al. 2022, section 5), as lesson 05's streaming form does. full: all of a block but its
/// input.
enum class Recompute { none, selective, full };

struct Question {
  ModelConfig model;  // attention.options.batch is not used: a cut has its own
  DataSheet machine = machines[1];
  Efficiency reached;
  int devices = 8;
  std::int64_t batch = 512;       // sequences of a step
  std::int64_t weight_bytes = 2;  // of a weight, of an activation
  std::int64_t wide_bytes = 4;    // of a gradient, of a master, of a moment
  double tokens = 300e9;          // of the whole training
  bool fused_attention = true;    // one kernel, lesson 05's streaming form
};

struct Cut {
  ParallelSizes sizes;
  std::int64_t microbatch = 1;  // sequences
  int chunks = 1;               // of each stage; more than one: the interleaved schedule
  pipeline::Schedule schedule = pipeline::Schedule::one_f_one_b;
  bool sequence_parallel = false;
  gpt::Way way = gpt::Way::ring;  // of attention over cp
  Recompute recompute = Recompute::none;
  int zero = 0;
  bool overlap = true;          // gradients are summed while the last backward goes on
  bool scatter_gather = false;  // a tp rank sends a tp-th of an activation to the next stage (Narayanan et
                                // al. 2021, section 4.1), which gathers it in its own machine
};

/// The run of lesson 08 under this cut. Throws UsageError where the cut does not divide what it cuts.
inline three_d::Config run_of(const Question& asked, const Cut& cut) {
  three_d::Config run;
  run.sizes = cut.sizes, run.batch = asked.batch;
  three_d::TrainingConfig& t = run.training;
  t.model = asked.model;
  const std::int64_t parts = cut.sizes.dp * cut.microbatch;
  t.microbatches = static_cast<int>(asked.batch / parts);
  t.model.tokens = asked.batch * asked.model.seq();
  t.model.attention.options.batch = cut.microbatch;
  const bool kept = cut.recompute == Recompute::none && !asked.fused_attention;  // the scores
  t.model.attention.options.form = kept ? AttentionOptions::Form::plain : AttentionOptions::Form::streaming;
  // As Megatron does: what was gathered is gathered again in the backward, beside the product of dX. Experts
  // stand where tokens are cut.
  t.model.sequence_parallel = t.model.regather = cut.sequence_parallel || asked.model.experts > 0;
  t.model.cp = cut.sizes.cp, t.model.ep = cut.sizes.ep, t.model.way = cut.way;
  t.schedule = cut.chunks > 1 ? pipeline::Schedule::interleaved : cut.schedule;
  t.chunks = cut.chunks, t.adamw = true, t.clip = 1, t.zero = cut.zero;
  t.bucket = 64 << 20;
  const auto refuse_undivided = [](const std::string& flag, std::int64_t by, const std::string& what,
                                   std::int64_t whole) {
    if (by > 0 && whole % by == 0) return;
    const auto fits = [&](std::int64_t n) { return whole % n == 0; };
    throw UsageError("{} {} does not divide {} {}: {} {} would work", flag, by, what, whole, flag,
                     fitting(std::min<std::int64_t>(whole, 64), fits));
  };
  const ParallelSizes& s = cut.sizes;
  refuse_undivided("--tp", s.tp, "--heads", asked.model.attention.heads);
  refuse_undivided("--tp", s.tp, "--ffn", asked.model.ffn());
  refuse_undivided("--ep", s.ep, "--cp times --dp,", s.replicas());
  if (asked.model.experts > 0) refuse_undivided("--ep", s.ep, "--experts", asked.model.experts);
  if (s.cp > 1) refuse_undivided("--cp", s.cp, "half of --seq,", asked.model.seq() / 2);
  if (s.cp > 1 && cut.way == gpt::Way::ulysses)
    for (const auto& [flag, heads] :
         {std::pair{"--heads", asked.model.attention.heads}, {"--kv-heads", asked.model.attention.kv_heads}})
      refuse_undivided("--cp", s.cp, format("a rank's share of {}", flag), heads / s.tp);
  if (cut.sequence_parallel) refuse_undivided("--tp", s.tp, "the tokens of a microbatch,", t.model.rows());
  if (parts < 1 || asked.batch % parts != 0)
    throw UsageError("--batch {} is no multiple of --dp {} times --microbatch {}: --batch {} would work",
                     asked.batch, s.dp, cut.microbatch, (asked.batch / parts + 1) * parts);
  if (s.cp > 1 && !asked.fused_attention)
    throw UsageError("cp needs attention that streams: without --attention it would work");
  if (asked.model.experts > 0 && s.tp > 1 && !cut.sequence_parallel)
    throw UsageError(
        "every rank of tp would send all tokens to experts: without --no-sequence-parallel it would work");
  if (const std::int64_t most = asked.model.layers / cut.chunks; s.pp > most)
    throw UsageError("--pp {} stages of --chunks {} are more than the {} layers: --pp {} would work", s.pp,
                     cut.chunks, asked.model.layers, std::max<std::int64_t>(1, most));
  pipeline::refuse_impossible(t.schedule, s.pp, t.microbatches, t.chunks);
  return run;
}

}  // namespace tessera::plan
