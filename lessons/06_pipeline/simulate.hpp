// The plan on a clock: when each stage executes each instruction, for any costs; and the closed forms that
// the simulation must reach.
#pragma once

#include <algorithm>
#include <iterator>
#include <vector>

#include "06_pipeline/messages.hpp"

namespace tessera::pipeline {

/// One instruction on the clock.
struct Step : Instruction {
  double begin = 0, end = 0;
};

inline bool computes(Op op) {
  return op == Op::forward || op == Op::backward || op == Op::backward_input || op == Op::backward_weight;
}

/// The steps of each stage, in order, in one unit of time. A stage is busy while it computes, and idle
/// otherwise. Messages, which do not compute, may be among the steps or not.
struct Timeline {
  std::vector<std::vector<Step>> stages;

  /// Without the messages, of all stages.
  std::vector<Step> computations() const {
    std::vector<Step> all;
    for (const auto& steps : stages)
      std::ranges::copy_if(steps, std::back_inserter(all), computes, &Step::op);
    return all;
  }
  double begin() const { return std::ranges::min(computations(), {}, &Step::begin).begin; }
  /// From the first computation's begin to the last one's end.
  double makespan() const { return std::ranges::max(computations(), {}, &Step::end).end - begin(); }
  double idle(std::size_t stage) const {
    double idle = makespan();
    for (const Step& step : stages[stage]) idle -= computes(step.op) ? step.end - step.begin : 0;
    return idle;
  }
  /// The idle share of the whole run: 1 - busy / (p makespan).
  double bubble() const {
    double sum = 0;
    for (std::size_t stage = 0; stage < stages.size(); ++stage) sum += idle(stage);
    return sum / (static_cast<double>(stages.size()) * makespan());
  }
  int microbatches() const { return std::ranges::max(computations(), {}, &Step::microbatch).microbatch + 1; }
  int chunks() const { return std::ranges::max(computations(), {}, &Step::chunk).chunk + 1; }
  bool split() const {  // into dX and dW
    const auto all = computations();
    return std::ranges::find(all, Op::backward_weight, &Step::op) != all.end();
  }
};

/// What the instructions of each virtual stage cost, and what a message costs, in any unit of time. Stages
/// may differ, since a stage with more layers costs more.
struct Costs {
  std::vector<double> forward, backward_input, backward_weight;  // a whole backward is the sum of the two
  double message = 0;

  static Costs equal(int virtual_stages, double forward, double backward_input, double backward_weight,
                     double message = 0) {
    const auto all = [&](double cost) { return std::vector<double>(virtual_stages, cost); };
    return {all(forward), all(backward_input), all(backward_weight), message};
  }

  /// The cost of an instruction of virtual stage `at`. A send costs nothing, since it does not wait; its
  /// receive takes the time of the message.
  double of(Op op, int at) const {
    if (is_receive(op)) return message;
    double cost = op == Op::forward ? forward.at(at) : 0;
    if (op == Op::backward || op == Op::backward_input) cost += backward_input.at(at);
    if (op == Op::backward || op == Op::backward_weight) cost += backward_weight.at(at);
    return cost;
  }
};

// begin simulate
/// The predicted timeline. A stage does one thing after the other. A receive begins when both sides are
/// there, and holds up the receiver only. Throws Error where the stages wait in a circle.
// task 06.simulate (function, 3 points, 30 min): a plan and its costs -> begin and end of every instruction.
// Hint: it begins when its stage is free, and not before what it waits for: of a receive its send, of a wait
// the end of the receive.
inline Timeline simulate(const Plan& plan, const Costs& costs) {
  const Partners partners = match(plan);
  const int stages = static_cast<int>(plan.size());
  Timeline timeline;
  timeline.stages.resize(plan.size());
  execute(plan, partners, [&](int stage, std::size_t n) {
    const Instruction& i = plan[stage][n];
    std::vector<Step>& steps = timeline.stages[stage];
    double begin = steps.empty() ? 0 : steps.back().end;
    if (is_receive(i.op) || i.op == Op::wait) {
      const auto [other, index] = partners[stage][n];
      begin = std::max(begin, timeline.stages[other][index].end);
    }
    const double cost = costs.of(i.op, virtual_stage(i.chunk, stage, stages));
    steps.push_back({i, begin, begin + cost});
  });
  return timeline;
}
// end task
// end simulate

// begin closed
/// Idle time of a stage, in forwards of one chunk, where TF = TB = TW: a whole backward is two forwards. It
/// is the same on each stage, as each does the same work in the same time. GPipe, 1F1B, interleaved:
/// Narayanan et al. 2021, section 2.2; ZB-H1: Qi et al. 2024, section 2.
///
/// Look at stage 0. Its first gradient is back after a forward and a backward on the p-1 stages behind it: it
/// waits 3 (p-1). ZB-H1 waits for the dX only, 2 (p-1), and forwards the next microbatches meanwhile, as long
/// as there are some and it may hold them: p-1 at most. In 1F1B those forwards come back as gaps at the end.
inline int idle_predicted(Schedule schedule, int p, int m) {
  return schedule == Schedule::zb_h1 ? 2 * (p - 1) - std::min(m - 1, p - 1) : 3 * (p - 1);
}

/// The bubble as a share of the whole run: idle / (work + idle). Without ZB-H1 it is (p-1) / (v m + p-1), for
/// every ratio of forward to backward.
inline double bubble_predicted(Schedule schedule, int p, int m, int v) {
  const int idle = idle_predicted(schedule, p, m);
  return static_cast<double>(idle) / (3 * v * m + idle);
}
// end closed

/// The most activations that stage r holds, in chunks, each from its forward to its dW: those of the warm-up,
/// that of the first pair, and those whose dW is delayed, but never more than there are.
inline int in_flight_predicted(Schedule schedule, int stages, int microbatches, int chunks, int r) {
  const SchedulePattern s = pattern(schedule, r, stages, microbatches, chunks);
  return std::min(microbatches * chunks, s.warm_up + 1 + s.delay);
}

}  // namespace tessera::pipeline
