// The schedule of a pipeline as data: which stage does what, and in which order. This file and worker.hpp are
// the lesson. Nothing here computes or sends: the worker executes these lists, the simulator times them, and
// the check reads them; all three see the same lists.
//
// A pipeline has p stages, and a step has m microbatches. Stage r holds v chunks of layers, which are the
// virtual stages r, r + p, r + 2p, ... Forward, a microbatch passes the virtual stages 0, 1, ..., v p - 1;
// backward, it passes them in the other direction.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tensor/error.hpp"

namespace tessera::pipeline {

/// GPipe: Huang et al. 2019. 1F1B and its interleaved form: Narayanan et al. 2021 (PTD-P), section 2.2.
/// ZB-H1: Qi et al. 2024 (Zero Bubble), section 2.
enum class Schedule { gpipe, one_f_one_b, interleaved, zb_h1 };

inline const std::vector<std::pair<Schedule, std::string>> schedule_names = {
    {Schedule::gpipe, "gpipe"},
    {Schedule::one_f_one_b, "1f1b"},
    {Schedule::interleaved, "interleaved"},
    {Schedule::zb_h1, "zb-h1"}};

// begin instruction
enum class Op {
  receive,           // the input of a forward, from the virtual stage before
  forward,           // keeps its activations until the last half of its backward
  send,              // starts to send the output to the virtual stage after, and does not wait
  receive_gradient,  // of the output, from the virtual stage after
  backward,          // both halves:
  backward_input,    //   dX, which the stage before waits for
  backward_weight,   //   dW, for which no stage waits; frees the activations
  send_gradient,     // starts to send dX to the virtual stage before, and does not wait
  wait,              // until the last send of this microbatch and chunk has been taken
  reduce             // once, at the end: sums the gradients over the data-parallel ranks
};

/// `chunk` counts the chunks of this stage. Both numbers begin at 0.
struct Instruction {
  Op op;
  int microbatch = 0, chunk = 0;
  bool operator==(const Instruction&) const = default;
};

using Instructions = std::vector<Instruction>;  // of one stage, in the order in which it executes them
using Plan = std::vector<Instructions>;         // of all stages
// end instruction

inline int virtual_stage(int chunk, int stage, int stages) { return chunk * stages + stage; }

// begin pattern
/// All schedules are one pattern: `warm_up` forwards, then a forward and a backward in turn, then the
/// backwards that are left. These numbers are all that tells them apart.
struct SchedulePattern {
  int warm_up;
  bool split = false;  // dX and dW are two instructions,
  int delay = 0;       // and each dW comes this many microbatches after its dX
};

// task 06.pattern (function, 3 points, 40 min): p stages, m microbatches, v chunks -> what stage r does, with
// as few activations as its schedule needs: they are counted. Hint: how many forwards does stage r start
// before its first gradient can be back? Stage p-1 has it at once, each earlier stage one forward later.
inline SchedulePattern pattern(Schedule schedule, int r, int p, int m, int v) {
  switch (schedule) {
    case Schedule::gpipe:
      return {m};  // every forward before any backward
    case Schedule::one_f_one_b:
      return {p - r - 1};  // the forwards of the stages behind it fill the pipeline
    case Schedule::interleaved:
      return {2 * (p - r - 1) + (v - 1) * p};  // v-1 rounds of p, and twice the way to the last stage
    case Schedule::zb_h1:
      break;
  }
  return {p - r - 1, true, r};  // late stages compute dX first, and keep r dW for when they would idle
}
// end task
// end pattern

/// Throws UsageError, which says what would work, where the schedule does not allow these numbers.
inline void refuse_impossible(Schedule schedule, int stages, int microbatches, int chunks) {
  const int p = stages, m = microbatches;
  if (p < 1 || m < 1 || chunks < 1)
    throw UsageError("a pipeline needs at least one stage, microbatch and chunk, not {}, {} and {}", p, m,
                     chunks);
  if (schedule != Schedule::interleaved && chunks > 1)
    throw UsageError("--chunks {}: only interleaved has several; --chunks 1 would work", chunks);
  if (p == 1 && chunks > 1)
    throw UsageError("--chunks {}: a single stage has nothing to interleave with; --chunks 1 would work",
                     chunks);
  if (const int below = m / p * p; schedule == Schedule::interleaved && below != m)
    throw UsageError(
        "--microbatches {}: interleaved takes them in groups of one a stage, and there are {} stages; "
        "--microbatches {} would work{}",
        m, p, below + p, below > 0 ? format(", or {}", below) : "");
}

inline constexpr int code_line = __LINE__ + 6;
// begin plan
// task 06.plan (design, 6 points, 90 min): p stages, m microbatches, v chunks -> a list a stage. A
// computation stands right behind what it receives and right before what it sends, and the reduce is last.
// Hint: write forward and backward with their messages first; then one loop, in which a backward follows
// `warm_up` steps after its forward.
inline Plan make_plan(Schedule schedule, int stages, int microbatches, int chunks = 1) {
  refuse_impossible(schedule, stages, microbatches, chunks);
  const int p = stages, v = chunks, units = microbatches * v;
  Plan plan;
  for (int r = 0; r < p; ++r) {
    Instructions list;
    // Unit k is one microbatch in one chunk. With one chunk it is microbatch k. With more, p microbatches
    // pass the first chunk, then the same p the next one, and so on (backward: from the last chunk down);
    // then come the next p.
    const auto microbatch = [&](int k) { return k / (p * v) * p + k % p; };
    const auto forward = [&](int k) {
      const int i = microbatch(k), chunk = k / p % v, at = virtual_stage(chunk, r, p);
      if (at > 0) list.push_back({Op::receive, i, chunk});
      list.push_back({Op::forward, i, chunk});
      if (at < v * p - 1) list.push_back({Op::send, i, chunk});
    };
    const auto backward = [&](Op half_or_whole, int k) {
      const int i = microbatch(k), chunk = v - 1 - k / p % v, at = virtual_stage(chunk, r, p);
      const bool dx = half_or_whole != Op::backward_weight;  // what its neighbours see
      if (dx && at < v * p - 1) list.push_back({Op::receive_gradient, i, chunk});
      list.push_back({half_or_whole, i, chunk});
      if (dx && at > 0) list.push_back({Op::send_gradient, i, chunk});
    };
    const auto [warm_up, split, delay] = pattern(schedule, r, p, microbatches, v);
    for (int k = 0; k < units + warm_up + delay; ++k) {
      const int b = k - warm_up, w = b - delay;
      if (k < units) forward(k);
      if (b >= 0 && b < units) backward(split ? Op::backward_input : Op::backward, b);
      if (split && w >= 0) backward(Op::backward_weight, w);
    }
    list.push_back({Op::reduce});
    plan.push_back(list);
  }
  return plan;
}
// end task
// end plan

}  // namespace tessera::pipeline
