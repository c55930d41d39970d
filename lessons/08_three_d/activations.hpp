// How many activations a rank of the combined model holds. The schedule is data: walk along the list of this
// stage and count what each instruction keeps and lets go.
#pragma once

#include "06_pipeline/messages.hpp"
#include "06_pipeline/partition.hpp"
#include "08_three_d/trainer.hpp"
#include "gpt/activations.hpp"

namespace tessera::three_d {

// begin held
/// The most elements that a stage holds between two instructions of `list`. A message is (n, W): a stage
/// holds it from its receive to its use, and from the moment it is made until its send has been waited for.
/// `dx` is what the embedding keeps for its gradient. The sum of the losses takes as much as `wide` elements.
inline std::int64_t most_held(const pipeline::Instructions& list,
                              const std::vector<gpt::KeptActivations>& chunks, std::int64_t message,
                              std::int64_t dx, bool first_stage, bool last_stage, std::int64_t wide) {
  using pipeline::Op;
  std::int64_t held = wide, most = wide;
  for (const pipeline::Instruction& i : list) {
    const gpt::KeptActivations& chunk = chunks.at(static_cast<std::size_t>(i.chunk));
    const bool first = first_stage && i.chunk == 0;
    const bool last = last_stage && i.chunk + 1 == static_cast<int>(chunks.size());
    if (i.op == Op::receive || i.op == Op::receive_gradient) held += message;
    if (i.op == Op::forward) held += chunk.forward - (first ? 0 : message) + (last ? 0 : message);
    if (i.op == Op::wait) held -= message;
    // What came in is now kept as dY of the last block; the first stage keeps dX for the embedding.
    if (i.op == Op::backward_input)
      held += chunk.backward_input - (last ? 0 : message) + (first ? dx : message);
    if (i.op == Op::backward_weight) held -= chunk.forward + chunk.backward_input + (first ? dx : 0);
    if (i.op == Op::backward) held -= chunk.forward + (last ? 0 : message) - (first ? 0 : message);
    most = std::max(most, held);
  }
  return most;
}
// end held

/// The most elements of activations on the rank at place `tp_rank` of tp and `stage` of pp.
inline std::int64_t activations_predicted(const TrainingConfig& t, const ParallelSizes& sizes, int tp_rank,
                                          int stage, std::int64_t wide) {
  const int p = sizes.pp, all = p * t.chunks;
  const pipeline::Partition partition = pipeline::even_partition(t.model.layers, all);
  std::vector<gpt::KeptActivations> chunks;
  for (int c = 0; c < t.chunks; ++c) {
    const int at = pipeline::virtual_stage(c, stage, p);
    chunks.push_back(gpt::kept_activations(t.model, partition[static_cast<std::size_t>(at)], at == all - 1,
                                           tp_rank, sizes.tp, wide));
  }
  const auto plan = pipeline::with_asynchronous_sends(make_plan(t.schedule, p, t.microbatches, t.chunks));
  const std::int64_t w = t.model.width();
  return most_held(plan[static_cast<std::size_t>(stage)], chunks, t.model.own_rows(sizes.tp) * w,
                   t.model.rows() * w, stage == 0, stage == p - 1, wide);
}

}  // namespace tessera::three_d
