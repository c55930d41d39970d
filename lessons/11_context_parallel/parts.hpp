// How lesson 08's trainer cuts tokens over cp: attention is this lesson's, and a rank has its chunks of the
// ids, of their positions and of the targets. A token's target is the next token of the whole sequence: that
// of a rank's last token is another rank's first token. Nothing else changes, since each rank's gradients are
// terms of those of the whole, as a replica's are: they are summed over dp_cp.
#pragma once

#include "08_three_d/config.hpp"
#include "11_context_parallel/ulysses.hpp"

namespace tessera::context_parallel {

// begin composition
inline Layout layout_of(const gpt::ModelConfig& m) {
  return {m.attention.options.batch, m.seq(), m.cp, m.zigzag};
}

/// The rows of x (N, cols), a microbatch, that rank `rank` of cp has.
inline Tensor cut_tokens(const Tensor& x, const gpt::ModelConfig& m, int rank) {
  const MemoryScope data(MemoryKind::check);
  return m.cp == 1 ? x : layout_of(m).slice(x.cols(), rank).extract(x);
}

/// Attention with this rank's heads of tp.
inline attention_heads::Core core_of(const gpt::ModelConfig& m, Communicator& cp, const TensorParallel& tp) {
  if (m.cp == 1) return {};
  return make_core(m.way, cp, layout_of(m), own_heads(m.attention, tp.rank(), tp.size()));
}

/// Lesson 08's trainer with the tokens of each sequence on `cp` ranks.
inline void use_in(three_d::TrainingConfig& training, int cp, Way way, bool zigzag) {
  training.model.cp = cp, training.model.way = way, training.model.zigzag = zigzag;
  training.parts.core = core_of, training.parts.cut_tokens = cut_tokens;
}
// end composition

}  // namespace tessera::context_parallel
