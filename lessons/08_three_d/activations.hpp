// How many activations does a rank hold? The plan is data: walk along this stage's list and count what each
// instruction keeps and lets go.
#pragma once

#include "06_pipeline/partition.hpp"
#include "06_pipeline/sends.hpp"
#include "08_three_d/gpt.hpp"

namespace tessera::three_d {

/// Elements that a chunk keeps of a microbatch: from its forward on, and what its dX adds until its dW.
struct Kept {
  std::int64_t forward = 0, input = 0;
};

// begin kept
/// Of `layers` blocks on rank `rank` of t, n tokens of width W, F = 4 W, S keys a row (1 where attention
/// streams):
///
///   forward  X, ln_1(X), H, ln_2(H)   4 n W     means and deviations  4 n     probabilities  n heads/t S
///            Q K V, O                 4 n W/t   gelu, before and after  2 n F/t
///   dX       dY, dln_2, dH, dln_1     4 n W     dQ dK dV  3 n W/t     before the gelu  n F/t
inline Kept kept(const Model& m, std::int64_t layers, bool last, int rank, int t) {
  const std::int64_t n = m.rows(), w = m.width(), f = m.ffn(), ids = own_ids(m.vocabulary, rank, t).size();
  const auto& o = m.attention.options;
  const std::int64_t core = n * m.attention.heads / t * (o.streams() ? 1 : o.seq);
  Kept all{layers * (n * (4 * w + 4) + (4 * n * w + 2 * n * f) / t + core),
           layers * (4 * n * w + (3 * n * w + n * f) / t)};
  if (last) {
    all.forward += n * (2 * w + 2) + n * (ids + 1);  // X, ln_f(X); probabilities and losses,
    all.input += n * w - n;                          // of which the logits' gradient takes the place; dln_f
  }
  return all;
}
// end kept

// begin held
/// The most elements between two instructions of `list`. A message is (n, W): it is held from its receive to
/// its use, and from its making until its send is waited for.
inline std::int64_t most_held(const pipeline::Instructions& list, const std::vector<Kept>& chunks,
                              std::int64_t message, bool first_stage, bool last_stage) {
  using pipeline::Op;
  std::int64_t held = 1, most = 1;  // the sum of the losses
  for (const pipeline::Instruction& i : list) {
    const Kept& chunk = chunks.at(static_cast<std::size_t>(i.chunk));
    const bool first = first_stage && i.chunk == 0;
    const bool last = last_stage && i.chunk + 1 == static_cast<int>(chunks.size());
    if (i.op == Op::receive || i.op == Op::receive_gradient) held += message;
    if (i.op == Op::forward) held += chunk.forward - (first ? 0 : message) + (last ? 0 : message);
    if (i.op == Op::wait) held -= message;
    // What came in is now kept as dY of the last block; on the first stage dX is kept for the embedding.
    if (i.op == Op::backward_input) held += chunk.input - (last ? 0 : message) + message;
    if (i.op == Op::backward_weight) held -= chunk.forward + chunk.input + (first ? message : 0);
    if (i.op == Op::backward) held -= chunk.forward + (last ? 0 : message) - (first ? 0 : message);
    most = std::max(most, held);
  }
  return most;
}
// end held

/// Of the rank at (tp rank, stage), from the sizes alone.
inline std::int64_t activations_predicted(const Training& t, const ParallelSizes& sizes, int rank,
                                          int stage) {
  const int p = sizes.pp, all = p * t.chunks;
  const pipeline::Partition partition = pipeline::even_partition(t.model.layers, all);
  std::vector<Kept> chunks;
  for (int c = 0; c < t.chunks; ++c) {
    const int at = pipeline::virtual_stage(c, stage, p);
    chunks.push_back(kept(t.model, partition[static_cast<std::size_t>(at)], at == all - 1, rank, sizes.tp));
  }
  const auto plan = pipeline::with_asynchronous_sends(make_plan(t.schedule, p, t.microbatches, t.chunks));
  return most_held(plan[static_cast<std::size_t>(stage)], chunks, t.model.rows() * t.model.width(),
                   stage == 0, stage == p - 1);
}

}  // namespace tessera::three_d
