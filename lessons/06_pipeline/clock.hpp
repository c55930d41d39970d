// When did which instruction run? And, so that eight stages on two cores show the true shape of a pipeline:
// the pace.
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

/// `forward` seconds for the forward of a chunk, as much for dX and for dW: 0 is as fast as it goes.
struct Pace {
  double forward = 0;
  double of(Op op) const { return computes(op) ? (op == Op::backward ? 2 * forward : forward) : 0; }
};

/// Times instructions by marks on the device, so that a GPU's work is timed and not its launch. With a pace
/// each computation lasts until a deadline: its time after the end of the one before, or after the message
/// it waited for.
class Clock {
 public:
  Clock(Journal& journal, const Pace& pace) : journal_(journal), pace_(pace), device_(*Device::current()) {
    device_.synchronize();
    start_ = deadline_ = journal_.now();
    base_ = device_.mark();
  }
  void begin(const Instruction& i) { timed_.push_back({i, device_.mark(), {}}); }
  void end() {
    const Op op = timed_.back().instruction.op;
    if (pace_.forward > 0 && (computes(op) || is_receive(op))) {
      device_.synchronize();
      deadline_ = std::max(deadline_ + pace_.of(op), is_receive(op) ? journal_.now() : 0);
      if (const double early = deadline_ - journal_.now(); early > 0)
        std::this_thread::sleep_for(std::chrono::duration<double>(early));
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
  Journal& journal_;
  Pace pace_;
  Device& device_;
  double start_, deadline_;
  Event base_;
  std::vector<Timed> timed_;
};

}  // namespace tessera::pipeline
