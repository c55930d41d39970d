// Lesson 08's trainer with the parts that lessons 09 to 12 have in their own folders: nothing is copied. Each
// of them replaces one part of the composition, so that they can stand together.
#pragma once

#include "09_sequence_parallel/parts.hpp"
#include "10_zero/sharded_optimizer.hpp"
#include "11_context_parallel/parts.hpp"
#include "12_experts/parts.hpp"

namespace tessera::all_axes {

// begin compose
inline void compose(three_d::TrainingConfig& t) {
  const gpt::ModelConfig& m = t.model;
  if (m.sequence_parallel) sequence_parallel::use_in(t, m.regather);  // blocks, embedding, head
  if (m.experts > 0) experts::use_in(t);                              // in blocks of that kind
  if (m.cp > 1) context_parallel::use_in(t, m.cp, m.way, m.zigzag);   // attention, a rank's tokens
  zero::use_in(t, t.zero);                                            // the optimiser
}
// end compose

}  // namespace tessera::all_axes
