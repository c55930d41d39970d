// When is a send waited for? Until then its buffer may not be touched: the receiver reads it there.
#pragma once

#include "06_pipeline/messages.hpp"

namespace tessera::pipeline {

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
/// The plan as it works: a send is posted, and waited for when its buffer is to be freed. An activation has
/// been taken when its gradient comes back, so that wait costs nothing;
/// a gradient is given the time until the next one.
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
