// When did which instruction run, and what did a step hold? The timeline of a run, and the costs of its
// parts. With a pace, eight stages on two cores show the true shape of a pipeline.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "06_pipeline/partition.hpp"
#include "06_pipeline/simulate.hpp"
#include "06_pipeline/worker.hpp"
#include "app/gather.hpp"
#include "gpt/builder.hpp"

namespace tessera::pipeline {

/// What a measured step left on this rank.
struct Trace {
  std::vector<Step> steps;            // seconds since the launch began
  int in_flight = 0;                  // the most microbatch-chunks held between forward and dW
  std::int64_t activation_bytes = 0;  // the most held between two instructions
  double loss = 0;                    // the sum of this rank's losses over all tokens
};

/// Times instructions by marks on the device, so that the work of a GPU is timed and not its launch.
///
/// `tick` is the pace in seconds: a forward of a chunk takes one tick, and so do dX and dW. 0 is as fast as
/// it goes. With a pace each computation lasts until a deadline, which is a whole number of ticks on the
/// clock of the machine: its own ticks after the end of the computation before it, or after the tick in which
/// its message came. The system wakes a sleeping rank late, by a tenth of a millisecond or, where ranks
/// outnumber cores, by one. The rank makes up for that by its next deadline. If it counted from the moment of
/// waking instead, these delays would add up from stage to stage.
class Clock {
 public:
  Clock(const Journal& journal, double tick) : tick_(tick), device_(*Device::current()) {
    device_.synchronize();
    if (tick_ > 0) wait_until(deadline_ = now() + 1);
    start_ = journal.now();
    base_ = device_.mark();
  }
  void begin(const Instruction& i) { timed_.push_back({i, device_.mark(), {}}); }
  void end() {
    const Op op = timed_.back().instruction.op;
    if (tick_ > 0 && (computes(op) || is_receive(op))) {
      device_.synchronize();
      if (is_receive(op)) deadline_ = std::max(deadline_, now());
      if (computes(op)) deadline_ += op == Op::backward ? 2 : 1;
      wait_until(deadline_);
    }
    timed_.back().end = device_.mark();
  }
  std::vector<Step> steps() const {
    std::vector<Step> steps;
    for (const auto& [instruction, begin, end] : timed_)
      steps.push_back({instruction, start_ + device_.seconds_between(base_, begin),
                       start_ + device_.seconds_between(base_, end)});
    return steps;
  }

 private:
  struct Timed {
    Instruction instruction;
    Event begin, end;
  };
  using SteadyClock = std::chrono::steady_clock;  // one for all processes of a machine
  std::int64_t now() const {                      // in ticks, rounded down
    const std::chrono::duration<double> seconds = SteadyClock::now().time_since_epoch();
    return seconds.count() / tick_;
  }
  void wait_until(std::int64_t tick) const {
    const std::chrono::duration<double> seconds(tick * tick_);
    std::this_thread::sleep_until(SteadyClock::time_point(std::chrono::ceil<SteadyClock::duration>(seconds)));
  }
  double tick_;
  Device& device_;
  double start_ = 0;
  std::int64_t deadline_ = 0;  // in ticks
  Event base_;
  std::vector<Timed> timed_;
};

/// One step of `worker` under the clock.
inline Trace run_timed(Worker& worker, const Instructions& list, const std::vector<Tokens>& microbatches,
                       const Journal& journal, double tick) {
  Clock clock(journal, tick);
  Trace trace;
  WorkerHooks hooks;
  hooks.before = [&](const Instruction& i) { clock.begin(i); };
  hooks.after = [&](const Instruction&) {
    clock.end();
    trace.in_flight = std::max(trace.in_flight, worker.in_flight());
    trace.activation_bytes =
        std::max(trace.activation_bytes, Device::current()->memory.now(MemoryKind::activation));
  };
  trace.loss = worker.run(list, microbatches, hooks);
  trace.steps = clock.steps();
  return trace;
}

/// What all ranks have measured in a step, by rank.
struct Measured {
  Timeline timeline;
  std::vector<std::int64_t> in_flight, activation_bytes;
  double loss = 0;  // the mean over all tokens
};

/// Gathers every rank's steps on rank 0. The ranks send the times alone: what they executed stands in the
/// plan.
inline Measured gather(Communicator& comm, const Plan& plan, const Trace& trace) {
  const CheckScope scope(comm);
  std::vector<double> mine = {double(trace.in_flight), double(trace.activation_bytes)};
  for (const Step& s : trace.steps) mine.insert(mine.end(), {s.begin, s.end});
  Measured all;
  for (const Tensor& one : gather_to_first(comm, Tensor::of(1, std::ssize(mine), mine, DType::f64))) {
    const std::vector<double> v = one.values();
    all.in_flight.push_back(v[0]), all.activation_bytes.push_back(v[1]);
    const Instructions& list = plan[all.timeline.stages.size()];
    auto& steps = all.timeline.stages.emplace_back();
    for (std::size_t i = 0; i < list.size(); ++i) steps.push_back({list[i], v[2 + 2 * i], v[3 + 2 * i]});
  }
  return all;
}

/// The median of some times; 0 where there are none.
inline double median(std::vector<double> seconds) {
  std::ranges::sort(seconds);
  return seconds.empty() ? 0 : seconds[seconds.size() / 2];
}

/// What an embedding, a block and a head cost this device: forward and backward of a microbatch, the median
/// of 7.
inline LayerCosts measure_costs(const ModelConfig& config, const TensorParallel& alone, DType dtype,
                                const Tokens& batch) {
  const MemoryScope scope(MemoryKind::check);
  gpt::Builder builder(config, alone, [&](const std::string& name, const Slice& slice) {
    return generate(1, name, slice, dtype, Fill::uniform, 0.1);
  });
  const Placed<Replicated> x(
      generate(1, "X", Slice::whole(config.rows(), config.width()), dtype, Fill::uniform, 1));
  const auto time = [&](const Chunk& chunk) {
    std::vector<double> seconds;
    for (int i = 0; i < 7; ++i) {
      Chunk::Saved saved;
      const Event begin = Device::current()->mark();
      chunk.forward(x, batch, saved, alone);
      chunk.backward_input(x, saved, alone);
      chunk.backward_weight(saved);
      seconds.push_back(Device::current()->seconds_between(begin, Device::current()->mark()));
    }
    return median(seconds);
  };
  return {time(builder.chunk({0, 0}, true, false)), time(builder.chunk({0, 1}, false, false)),
          time(builder.chunk({0, 0}, false, true))};
}

/// What each virtual stage took in a measured run: medians over the microbatches. Predicts that run's
/// timeline.
inline Costs costs_of(const Timeline& timeline, int virtual_stages) {
  Costs costs;
  const int stages = timeline.stages.size();
  for (int at = 0; at < virtual_stages; ++at) {
    const auto seconds_of = [&](Op op) {
      std::vector<double> seconds;
      for (const Step& s : timeline.stages[at % stages])
        if (s.op == op && s.chunk == at / stages) seconds.push_back(s.end - s.begin);
      return median(seconds);
    };
    costs.forward.push_back(seconds_of(Op::forward));
    costs.backward_input.push_back(seconds_of(Op::backward_input) + seconds_of(Op::backward));
    costs.backward_weight.push_back(seconds_of(Op::backward_weight));
  }
  return costs;
}

/// The rank's timeline for --trace: a bar an instruction, an arrow from each send to its receive.
inline void journal_steps(Journal& journal, const Trace& trace, int stage, int stages) {
  for (const Step& s : trace.steps) {
    const int at = virtual_stage(s.chunk, stage, stages);
    const bool gradient = s.op == Op::send_gradient || s.op == Op::receive_gradient;
    const std::string message =
        format("{}{}.{}", gradient ? "g" : "a", s.microbatch, with_next(s.op) ? at : at - 1);
    const std::string flow = is_send(s.op) ? "out:" + message : is_receive(s.op) ? "in:" + message : "";
    journal.span({text(s), "pipeline", s.begin, s.end, flow});
  }
}

}  // namespace tessera::pipeline
