// More runs beside the lesson's: of every schedule (--compare), and of the even partition (--partition
// balance).
#pragma once

#include "06_pipeline/harness/command_line.hpp"
#include "06_pipeline/harness/screen.hpp"

namespace tessera::pipeline {

/// What the further runs have found, on rank 0.
struct Comparison {
  std::vector<Run> schedules;
  std::vector<std::string> left_out;  // why a schedule is not among them
  LayerCosts costs;                   // what --partition balance has measured
  std::vector<Run> even;              // and its run of the even partition; else empty
};

/// A run with a proof of its own, which is one check of `main`. Leaves an empty journal.
inline Run run_alone(Proof& main, Communicator& pp, const Config& s, const std::string& name) {
  Proof proof(pp, {Tier::floating, main.dtype(), main.seed()});
  const Run run{s, prove(proof, pp, s)};
  const Outcome outcome = proof.finish();
  if (pp.rank() == 0)
    main.claim(name + ": loss and all gradients", outcome.ok() ? 0 : 1, 0,
               "run it by itself to see what is wrong");
  pp.journal().clear();
  return run;
}

/// The same model under every schedule.
inline void run_schedules(Comparison& found, Proof& main, Communicator& pp, const Config& base) {
  for (const auto& [schedule, name] : schedule_names) {
    Config s = base;
    s.schedule = schedule;
    s.chunks = schedule == Schedule::interleaved ? 2 : 1;
    const int parts = pp.size() * s.chunks;
    try {
      refuse_impossible(schedule, pp.size(), s.microbatches, s.chunks);
      refuse_if(s.model.layers < parts, "needs {} layers", parts);
    } catch (const UsageError& error) {
      found.left_out.push_back(name + " left out: " + error.what());
      continue;
    }
    s.partition = even_partition(s.model.layers, parts);
    found.schedules.push_back(run_alone(main, pp, s, name));
  }
}

/// Measures what layers cost, runs the even partition, and gives `s` the balanced one.
inline void balance_stages(Comparison& found, Proof& main, Communicator& pp, Config& s) {
  {
    const auto alone = pp.split(pp.rank(), 0, "tp");
    const CheckScope scope(pp);
    const auto batches = gpt::microbatches_of(gpt::random_tokens(s.model, main.seed()), s.microbatches);
    LayerCosts costs;  // on rank 0
    if (pp.rank() == 0) {
      const auto busy = pp.busy("measures what a block costs");
      costs = measure_costs(s.model, TensorParallel(*alone), main.dtype(), batches.front());
    }
    for (double LayerCosts::*part : {&LayerCosts::embedding, &LayerCosts::block, &LayerCosts::head})
      found.costs.*part = sum_over(pp, costs.*part);  // every rank must choose the same partition
  }
  found.even = {run_alone(main, pp, s, "even partition")};
  s.partition = balanced_partition(s.model.layers, s.virtual_stages(), found.costs);
}

/// The runs that the command line asks for beside the lesson's own. May give `s` another partition.
inline Comparison run_comparison(Proof& main, Communicator& pp, Config& s, const Arguments& arguments) {
  Comparison found;
  if (arguments.compare) run_schedules(found, main, pp, s);
  if (arguments.balances()) balance_stages(found, main, pp, s);
  return found;
}

/// The even partition above the balanced one. It takes a stage's forward for a third of what the stage costs.
inline std::string partition_table(const Comparison& found, const Run& balanced) {
  const auto ms = [](double seconds) { return number(1e3 * seconds) + " ms"; };
  Cells rows = {{"Layers", "slowest stage", "mean stage", "bubble predicted", "measured"}};
  for (const Run& run : {found.even.front(), balanced}) {
    const Partition& partition = run.config.partition;
    std::vector<double> thirds;
    for (std::size_t at = 0; at < partition.size(); ++at) thirds.push_back(found.costs.of(partition, at) / 3);
    const double mean = 3 * std::accumulate(thirds.begin(), thirds.end(), 0.0) / thirds.size();
    rows.push_back({"  " + join(partition, ","), ms(found.costs.slowest(partition)), ms(mean),
                    percent(simulate(run.config.plan(), {thirds, thirds, thirds}).bubble()),
                    percent(run.measured.timeline.bubble())});
  }
  return format("Forward and backward of a microbatch, measured alone: embedding {}, a block {}, head {}\n{}",
                ms(found.costs.embedding), ms(found.costs.block), ms(found.costs.head),
                table(rows, "lrrrr", 0));
}

inline std::string schedule_table(const Comparison& found, bool timed) {
  Cells rows = {
      {"Schedule", "bubble", "predicted", "measured", "in flight s0..", "most activations", "sent"}};
  for (const Run& run : found.schedules) {
    const Config& s = run.config;
    rows.push_back(
        {"  " + word_of(schedule_names, s.schedule) + (s.chunks > 1 ? format(" v={}", s.chunks) : ""),
         formula(s), percent(timed ? run.predicted().bubble() : s.bubble_predicted()),
         percent(run.measured.timeline.bubble()), join(run.measured.in_flight, " "),
         bytes(std::ranges::max(run.measured.activation_bytes)),
         format("{} messages", 2 * s.microbatches * (s.virtual_stages() - 1))});
  }
  if (!timed)
    for (auto& row : rows) row.erase(row.begin() + 3);
  return table(rows, timed ? "llrrlrr" : "llrlrr", 0) + indented(join(found.left_out, "\n"), 2);
}

/// The tables of the further runs; nothing that was measured in seconds unless `run` is timed.
inline std::string text(const Comparison& found, const Run& run) {
  std::string out;
  if (!found.even.empty()) out += (run.is_timed() ? partition_table(found, run) : "") + "\n";
  if (!found.schedules.empty()) out += schedule_table(found, run.is_timed()) + "\n";
  return out + "Try --microbatches 32 --batch 32, --pace 5ms --compare, --partition balance --vocab 2048\n";
}

}  // namespace tessera::pipeline
