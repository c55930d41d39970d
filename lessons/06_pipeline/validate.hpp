// Is a plan legal? The lists alone tell: every microbatch is computed once, no instruction comes before what
// it needs or after what it frees, every send has its receive, and no stages wait for one another in a
// circle.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "06_pipeline/messages.hpp"

namespace tessera::pipeline {

// begin needs
/// What the same stage must have done before with the same microbatch and chunk. `first` and `last` tell
/// whether it is the first or the last virtual stage. A whole backward counts as both of its halves.
// task 06.needs (function, 2 points, 20 min): an instruction -> what it reads. Hint: six rules, two of them
// different at an end.
inline std::vector<Op> needs(Op op, bool first, bool last) {
  switch (op) {
    case Op::forward:
      return first ? std::vector<Op>{} : std::vector<Op>{Op::receive};
    case Op::send:
      return {Op::forward};
    case Op::backward:
    case Op::backward_input:
      return last ? std::vector<Op>{Op::forward} : std::vector<Op>{Op::forward, Op::receive_gradient};
    case Op::backward_weight:
    case Op::send_gradient:
      return {Op::backward_input};
    default:
      return {};
  }
}
// end task
// end needs

/// Checks one stage by itself. Returns the most activations, in chunks, that it holds at a time.
inline int check_stage(const Instructions& list, int stage, int stages, int microbatches, int chunks) {
  std::map<std::pair<int, int>, std::set<Op>> all_done;
  int held = 0, most = 0, reduces = 0;
  for (std::size_t n = 0; n < list.size(); ++n) {
    const Instruction& i = list[n];
    const auto refuse = [&](std::string_view why) {
      throw Error(format("stage {}, instruction {}, {}: {}", stage, n, text(i), why));
    };
    if (reduces > 0) refuse("after the reduce, which sums what all backwards have left");
    if (i.op == Op::reduce) ++reduces;
    if (i.op == Op::reduce || i.op == Op::wait) continue;
    if (i.microbatch < 0 || i.microbatch >= microbatches || i.chunk < 0 || i.chunk >= chunks)
      refuse("no such microbatch or chunk");
    const int at = virtual_stage(i.chunk, stage, stages), end = stages * chunks - 1;
    if ((is_send(i.op) || is_receive(i.op)) && at == (with_next(i.op) ? end : 0))
      refuse("the pipeline ends here, no stage is at the other end");
    std::set<Op>& done = all_done[{i.microbatch, i.chunk}];
    for (const Op before : needs(i.op, at == 0, at == end))
      if (done.count(before) == 0) refuse(format("comes before its {}", name(before)));
    if (i.op == Op::send && done.count(Op::backward_weight) > 0)
      refuse("its backward has freed what it sends");
    std::vector<Op> does = {i.op};
    if (i.op == Op::backward) does = {Op::backward_input, Op::backward_weight};
    for (const Op op : does)
      if (!done.insert(op).second) refuse("done twice");
    if (i.op == Op::forward) most = std::max(most, ++held);
    if (does.back() == Op::backward_weight) --held;
  }
  if (reduces == 0) throw Error(format("stage {}: the reduce is missing", stage));
  for (int microbatch = 0; microbatch < microbatches; ++microbatch)
    for (int chunk = 0; chunk < chunks; ++chunk)
      for (const Op op : {Op::forward, Op::backward_input, Op::backward_weight})
        if (all_done[{microbatch, chunk}].count(op) == 0)
          throw Error(format("stage {}: {} is missing", stage, text({op, microbatch, chunk})));
  return most;
}

/// Throws Error with the reason where the plan is illegal. Returns the activations in flight: the most that
/// each stage holds at a time, in chunks, each from its forward to its dW.
inline std::vector<int> check(const Plan& plan, int microbatches, int chunks = 1) {
  const int stages = static_cast<int>(plan.size());
  std::vector<int> in_flight;
  for (int stage = 0; stage < stages; ++stage)
    in_flight.push_back(check_stage(plan[stage], stage, stages, microbatches, chunks));
  execute(plan, match(plan), [](int, std::size_t) {});  // every message fits, and no stage waits for ever
  return in_flight;
}

}  // namespace tessera::pipeline
