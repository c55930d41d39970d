// When did which instruction run? And, so that eight stages on two cores show the true shape
// of a pipeline: the pace.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "06_pipeline/messages.hpp"
#include "06_pipeline/timeline.hpp"
#include "report/journal.hpp"
#include "tensor/device.hpp"

namespace tessera::pipeline {

/// Seconds of a tick: a forward of a chunk takes one, and so do dX and dW. 0 is as fast as it goes.
struct Pace {
  double forward = 0;
  static int ticks(Op op) { return op == Op::backward ? 2 : 1; }
};

/// Times instructions by marks on the device, so that a GPU's work is timed and not its launch.
///
/// With a pace each computation lasts until a deadline, which is a whole number of ticks on the machine's
/// clock: its own ticks after the end of the one before, or after the tick in which the message came. Late is
/// who is woken late, by a tenth of a millisecond or, where ranks outnumber cores, by one; it makes up for it
/// by its next deadline. Counted from the moment of waking instead,
/// these delays would add up from stage to stage.
class Clock {
 public:
  Clock(Journal& journal, const Pace& pace) : journal_(journal), pace_(pace), device_(*Device::current()) {
    device_.synchronize();
    if (pace_.forward > 0) wait_until(deadline_ = now() + 1);
    start_ = journal_.now();
    base_ = device_.mark();
  }
  void begin(const Instruction& i) { timed_.push_back({i, device_.mark(), {}}); }
  void end() {
    const Op op = timed_.back().instruction.op;
    if (pace_.forward > 0 && (computes(op) || is_receive(op))) {
      device_.synchronize();
      deadline_ = computes(op) ? deadline_ + Pace::ticks(op) : std::max(deadline_, now());
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
  using Clockwork = std::chrono::steady_clock;  // one for all processes of a machine
  std::int64_t now() const {                    // in ticks, rounded down
    const std::chrono::duration<double> seconds = Clockwork::now().time_since_epoch();
    return static_cast<std::int64_t>(seconds.count() / pace_.forward);
  }
  void wait_until(std::int64_t tick) const {
    const std::chrono::duration<double> seconds(static_cast<double>(tick) * pace_.forward);
    std::this_thread::sleep_until(Clockwork::time_point(std::chrono::ceil<Clockwork::duration>(seconds)));
  }
  Journal& journal_;
  Pace pace_;
  Device& device_;
  double start_ = 0;
  std::int64_t deadline_ = 0;  // in ticks
  Event base_;
  std::vector<Timed> timed_;
};

}  // namespace tessera::pipeline
