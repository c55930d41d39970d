// The messages of a plan: which receive takes which send, and in which order the stages can go on.
//
// Nothing is buffered: a send completes when its receive has taken the data. Messages between two stages
// carry no name: the n-th receive takes the n-th send, so both stages must agree on the order.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "06_pipeline/schedule.hpp"

namespace tessera::pipeline {

inline std::string_view name(Op op) {
  // In the order of Op.
  constexpr std::string_view names[] = {"receive",
                                        "forward",
                                        "send",
                                        "receive_gradient",
                                        "backward",
                                        "backward_input",
                                        "backward_weight",
                                        "send_gradient",
                                        "wait",
                                        "reduce"};
  return names[static_cast<int>(op)];
}

/// "forward of microbatch 3, chunk 1": both count from 1, as in the pictures.
inline std::string text(const Instruction& i) {
  return format("{} of microbatch {}, chunk {}", name(i.op), i.microbatch + 1, i.chunk + 1);
}

inline bool is_send(Op op) { return op == Op::send || op == Op::send_gradient; }
inline bool is_receive(Op op) { return op == Op::receive || op == Op::receive_gradient; }

/// Whether the next virtual stage is at the other end of a message: activations go there, gradients come from
/// there.
inline bool with_next(Op op) { return op == Op::send || op == Op::receive_gradient; }

/// The stage at the other end of a message. The stages form a ring: the last stage sends to the next chunk of
/// the first one.
inline int peer(Op op, int stage, int stages) { return (stage + (with_next(op) ? 1 : stages - 1)) % stages; }

/// The place of an instruction in a plan.
struct Place {
  int stage = -1;  // -1: none
  std::size_t index = 0;
};
using Partners = std::vector<std::vector<Place>>;  // a place for each instruction of a plan

/// Finds for each send its receive, for each receive its send, and for each wait the receive that ends it.
/// Throws Error where the two stages of a pair disagree about a message.
inline Partners match(const Plan& plan) {
  const int stages = static_cast<int>(plan.size());
  using Places = std::vector<Place>;
  std::map<std::pair<int, int>, std::pair<Places, Places>> pairs;  // (from, to): sends and receives
  std::vector<std::pair<Place, Place>> waits;                      // each with its send
  Partners partners;
  for (int stage = 0; stage < stages; ++stage) {
    partners.emplace_back(plan[stage].size());
    std::map<std::pair<int, int>, Place> posted;  // the last send of each microbatch and chunk
    for (std::size_t n = 0; n < plan[stage].size(); ++n) {
      const auto& [op, microbatch, chunk] = plan[stage][n];
      if (is_send(op)) {
        pairs[{stage, peer(op, stage, stages)}].first.push_back({stage, n});
        posted[{microbatch, chunk}] = {stage, n};
      }
      if (is_receive(op)) pairs[{peer(op, stage, stages), stage}].second.push_back({stage, n});
      if (op != Op::wait) continue;
      waits.push_back({{stage, n}, posted[{microbatch, chunk}]});
      if (waits.back().second.stage < 0) throw Error(format("stage {} waits for no send", stage));
    }
  }
  const auto at = [&](const Place& place) { return plan[place.stage][place.index]; };
  const auto boundary = [&](const Place& place) {  // b, between virtual stages b and b + 1
    const auto [op, microbatch, chunk] = at(place);
    return virtual_stage(chunk, place.stage, stages) - (with_next(op) ? 0 : 1);
  };
  for (const auto& [pair, ends] : pairs) {
    const auto& [sends, receives] = ends;
    const std::string between = format("from stage {} to stage {}", pair.first, pair.second);
    if (sends.size() != receives.size())
      throw Error(format("{} sends {}, but {} receives", sends.size(), between, receives.size()));
    for (std::size_t n = 0; n < sends.size(); ++n) {
      const Instruction out = at(sends[n]), in = at(receives[n]);
      // The direction across the boundary tells an activation from a gradient.
      if (out.microbatch != in.microbatch || boundary(sends[n]) != boundary(receives[n]))
        throw Error(format("message {} {}: the {}, meets the {}", n + 1, between, text(out), text(in)));
      partners[sends[n].stage][sends[n].index] = receives[n];
      partners[receives[n].stage][receives[n].index] = sends[n];
    }
  }
  for (const auto& [wait, send] : waits) partners[wait.stage][wait.index] = partners[send.stage][send.index];
  return partners;
}

// begin execute
/// Calls visit(stage, index) for every instruction of the plan, in an order in which the stages can execute
/// them: a receive after its send, a wait after the receive that it waits for. Throws Error that names the
/// circle where stages wait for one another for ever.
template <class Visit>
void execute(const Plan& plan, const Partners& partners, const Visit& visit) {
  std::vector<std::size_t> next(plan.size());  // of each stage: its first instruction not yet executed
  const auto done = [&](std::size_t stage) { return next[stage] == plan[stage].size(); };
  const auto ready = [&](std::size_t stage) {
    const Op op = plan[stage][next[stage]].op;
    const Place& other = partners[stage][next[stage]];
    return !(is_receive(op) || op == Op::wait) || next[other.stage] > other.index;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t stage = 0; stage < plan.size(); ++stage)
      for (; !done(stage) && ready(stage); ++next[stage], moved = true)
        visit(static_cast<int>(stage), next[stage]);
  }
  std::size_t stuck = 0;
  while (stuck < plan.size() && done(stuck)) ++stuck;
  if (stuck == plan.size()) return;
  // A stage that cannot go on waits for another such stage: follow them until one appears again.
  const auto waits_for = [&](std::size_t stage) { return partners[stage][next[stage]].stage; };
  std::set<std::size_t> seen;
  while (seen.insert(stuck).second) stuck = waits_for(stuck);
  std::vector<std::string> circle;
  const std::size_t begin = stuck;
  do {
    const auto [other, index] = partners[stuck][next[stuck]];
    const bool waits = plan[stuck][next[stuck]].op == Op::wait;  // a wait is named by its send
    const std::size_t at = waits ? partners[other][index].index : next[stuck];
    circle.push_back(format("stage {} waits for stage {} in its {}", stuck, other, text(plan[stuck][at])));
    stuck = waits_for(stuck);
  } while (stuck != begin);
  throw Error("circular wait: " + join(circle, "; "));
}
// end execute

// A stage may not change the buffer of a send until it has waited for it, since the receiver reads the data
// there. When should it wait?

// begin blocking
/// The plan as a beginner would write it: each send is waited for at once.
inline Plan with_blocking_sends(const Plan& plan) {
  Plan blocking;
  for (const Instructions& list : plan) {
    Instructions& out = blocking.emplace_back();
    for (const Instruction& i : list) {
      out.push_back(i);
      if (is_send(i.op)) out.push_back({Op::wait, i.microbatch, i.chunk});
    }
  }
  return blocking;
}
// end blocking

// begin asynchronous
/// The plan with asynchronous sends: a stage waits for a send when it wants to free the buffer. When the
/// gradient of an activation comes back, the activation has been taken, so this wait costs nothing. A
/// gradient has time until the stage sends the next one.
// task 06.asynchronous (function, 3 points, 30 min): add the waits: for an activation right before the
// backward of its microbatch and chunk, for a gradient right before the next one is sent, for the last one
// before the reduce. Hint: two buffers a stage, and none may be left when the step ends.
inline Plan with_asynchronous_sends(const Plan& plan) {
  Plan asynchronous;
  for (const Instructions& list : plan) {
    Instructions& out = asynchronous.emplace_back();
    Instructions gradient;  // the wait for the last one sent, if any
    for (const Instruction& i : list) {
      const bool returns = i.op == Op::backward || i.op == Op::backward_input;
      if (returns &&
          std::find(out.begin(), out.end(), Instruction{Op::send, i.microbatch, i.chunk}) != out.end())
        out.push_back({Op::wait, i.microbatch, i.chunk});
      if (i.op == Op::send_gradient || i.op == Op::reduce) {
        out.insert(out.end(), gradient.begin(), gradient.end());
        gradient = {{Op::wait, i.microbatch, i.chunk}};
      }
      out.push_back(i);
    }
  }
  return asynchronous;
}
// end task
// end asynchronous

}  // namespace tessera::pipeline
