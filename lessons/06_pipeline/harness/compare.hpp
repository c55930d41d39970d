// More runs beside the lesson's: of every schedule, of the even partition, and what blocking sends lead to.
#pragma once

#include "06_pipeline/harness/screen.hpp"

namespace tessera::pipeline {

/// A run with a proof of its own, of which one line appears in `main`. Leaves an empty journal.
inline void run_alone(Proof& main, Communicator& comm, Run& run, const std::string& name) {
  Proof proof(comm, {Tier::floating, main.dtype(), main.seed()});
  run.measured = prove(proof, comm, run.setup);
  const Outcome outcome = proof.finish();
  if (comm.rank() == 0)
    main.claim(name + ": loss and all gradients", outcome.ok() ? 0 : 1, 0,
               "run it by itself to see what is wrong");
  comm.journal().clear();
}

/// The same model under every schedule; each one's loss and gradients are checked too.
inline std::vector<Run> run_all(Proof& main, Communicator& comm, const Config& base,
                                std::vector<std::string>& left_out) {
  std::vector<Run> runs;
  for (const auto& [schedule, name] : schedule_names) {
    Run run{base, {}};
    run.setup.schedule = schedule;
    run.setup.chunks = schedule == Schedule::interleaved ? 2 : 1;
    const int parts = comm.size() * run.setup.chunks;
    try {
      refuse_impossible(schedule, comm.size(), base.microbatches, run.setup.chunks);
      if (base.model.layers < parts) throw UsageError(format("needs {} layers", parts));
    } catch (const UsageError& error) {
      left_out.push_back(name + " left out: " + error.what());
      continue;
    }
    run.setup.partition = even_partition(base.model.layers, parts);
    run_alone(main, comm, run, name);
    runs.push_back(run);
  }
  comm.journal().clear();
  return runs;
}

/// What layers cost, and the run of the even partition.
struct Balance {
  LayerCosts costs;
  Run even;
};

/// Measures what layers cost, runs the even partition, and gives `s` the balanced one.
inline Balance balance_stages(Proof& main, Communicator& comm, Config& s) {
  const auto alone = comm.split(comm.rank(), 0, "tp");
  Balance balance{{}, {s, {}}};
  {
    const Phase phase = comm.phase("check");
    const MemoryScope scope(MemoryKind::check);
    const Tokens batch =
        gpt::microbatches_of(gpt::random_tokens(s.model, main.seed()), s.microbatches).front();
    LayerCosts costs;
    if (comm.rank() == 0) {
      const auto busy = comm.busy("measures what a block costs");
      costs = measure_costs(s.model, TensorParallel(*alone), main.dtype(), batch);
    }
    const Tensor shared = Tensor::of(1, 3, {costs.embedding, costs.block, costs.head}, DType::f64);
    comm.broadcast(shared, 0);  // every rank must choose the same partition
    const std::vector<double> c = shared.values();
    balance.costs = {c[0], c[1], c[2]};
  }
  run_alone(main, comm, balance.even, "even partition");
  s.partition = balanced_partition(s.model.layers, static_cast<int>(s.partition.size()), balance.costs);
  return balance;
}

/// The even partition above the balanced one. A stage's forward is a third of what it costs.
inline std::string balanced(const Balance& balance, const Run& run, bool stable) {
  if (stable) return "";
  const auto ms = [](double seconds) { return number(1e3 * seconds) + " ms"; };
  std::vector<std::vector<std::string>> rows = {
      {"Layers", "slowest stage", "mean stage", "bubble predicted", "measured"}};
  for (const Run* each : {&balance.even, &run}) {
    const Partition& partition = each->setup.partition;
    Costs costs = Costs::equal(static_cast<int>(partition.size()), 0, 0, 0);
    double sum = 0;
    for (std::size_t at = 0; at < partition.size(); ++at) {
      const double cost = balance.costs.of(partition, at);
      sum += cost;
      costs.forward[at] = costs.backward_input[at] = costs.backward_weight[at] = cost / 3;
    }
    rows.push_back({"  " + text(partition), ms(balance.costs.slowest(partition)),
                    ms(sum / static_cast<double>(partition.size())),
                    percent(simulate(each->setup.plan(each->stages()), costs).bubble()),
                    percent(each->measured.timeline.bubble())});
  }
  return format("Forward and backward of a microbatch, measured alone: embedding {}, a block {}, head {}\n{}",
                ms(balance.costs.embedding), ms(balance.costs.block), ms(balance.costs.head),
                table(rows, "lrrrr", 0));
}

/// How far a stage's activations in flight are from the formula.
inline double in_flight_excess(const Run& run) {
  const std::vector<int> law = run.in_flight_predicted();
  double most = 0;
  for (std::size_t r = 0; r < law.size(); ++r)
    most = std::max<double>(most, std::abs(run.measured.in_flight.at(r) - law[r]));
  return most;
}

/// How far the bubble of the lists, for equal stages, is from the closed form.
inline double bubble_excess(const Run& run) {
  const Config& s = run.setup;
  return std::abs(Run{s, {}}.predicted().bubble() -
                  bubble_predicted(s.schedule, run.stages(), s.microbatches, s.chunks));
}

/// What becomes of blocking sends, read off the lists alone.
inline std::string warning(const Config& s, int stages) {
  try {
    check(s.plan(stages), s.microbatches, s.chunks);
  } catch (const Error& error) {
    return format(
        "  --blocking: each send is waited for at once. The lists alone say what follows:\n    {}\n"
        "  Each of them sends before it receives, so none of them ever receives. Post the sends, and wait "
        "later.\n",
        error.what());
  }
  return "  --blocking: each send is waited for at once. This schedule survives it: all messages go one way, "
         "then all the other.\n";
}

}  // namespace tessera::pipeline
