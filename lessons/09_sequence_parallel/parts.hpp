// The parts of a GPT whose activations are cut by tokens between the blocks, and how lesson 08 trains it.
#pragma once

#include "08_three_d/trainer.hpp"
#include "09_sequence_parallel/sequence_parallel.hpp"

namespace tessera::sequence_parallel {

// begin embedding
/// Lesson 05's embedding, whose output each rank has for its own tokens only. The backward needs the
/// gradients of all tokens, since each rank has the table's rows of its own ids.
struct Embedding : attention_heads::VocabParallelEmbedding {
  explicit Embedding(VocabParallelEmbedding whole) : VocabParallelEmbedding(std::move(whole)) {}
  Placed<Shard<0>> forward(const Tensor& ids, const Tensor& positions, const TensorParallel& tp) const {
    const Placed<Partial> rows(tessera::embedding(ids, wte.local()));  // zeros except for this rank's ids
    const Tensor own = tp.comm().take_shard(positions, 0);
    return add(tp.reduce_scatter<0>(rows), Placed<Shard<0>>(tessera::embedding(own, wpe.local())));
  }
};
// end embedding

// begin head
/// The norm works on this rank's tokens; the logits need all of them, of which this rank has its own columns.
struct Head : attention_heads::VocabParallelHeadOf<Shard<0>> {
  explicit Head(VocabParallelHeadOf whole) : VocabParallelHeadOf(std::move(whole)) {}
  Placed<Replicated> forward(const Placed<Shard<0>>& x, const Tensor& targets, Saved& saved,
                             const TensorParallel& tp) const {
    saved.y = tp.all_gather(ln_f.forward(x, saved.ln_f));
    return losses(targets, saved, tp);
  }
  Placed<Shard<0>> backward_input(const Tensor& targets, std::int64_t tokens, Saved& saved,
                                  const TensorParallel& tp) const {
    return ln_f.backward_input(tp.reduce_scatter<0>(backward_losses(targets, tokens, saved)), saved.ln_f);
  }
};
// end head

struct Parts {
  using Residual = Shard<0>;
  using Embedding = sequence_parallel::Embedding;
  using Block = sequence_parallel::Block;
  using Head = sequence_parallel::Head;
  static Placed<Replicated> all_tokens(const Placed<Shard<0>>& dx, const TensorParallel& tp) {
    return tp.all_gather(dx);
  }
  static void set_up(Block& block, const gpt::ModelConfig& m, const TensorParallel& tp) {
    block.first_row = tp.rank() * m.own_rows(tp.size());
    block.attn.regather = block.mlp.regather = m.regather;
  }
};

// begin composition
/// Sums the Partial gradients over tp, in place: those of norms and of late biases. A gradient is a row, or a
/// range of one where lesson 10's replicas share them out.
inline void pay_partials(const std::vector<gpt::Parameter>& parameters, const TensorParallel& tp) {
  std::vector<Tensor> owed;
  std::int64_t all = 0;
  for (const gpt::Parameter& one : parameters)
    if (one.partial) owed.push_back(one.gradient), all += one.gradient.size();
  if (owed.empty()) return;  // an end of a pipeline without blocks
  const Tensor terms = Tensor::empty(1, all, owed.front().dtype());
  TensorRow from(terms);
  for (const Tensor& one : owed) from.take(one).copy_from(one);
  TensorRow sums(sum_partials({Placed<Partial>(terms)}, tp).local());
  for (const Tensor& one : owed) one.copy_from(sums.take(one));
}

/// Lesson 08's trainer with these parts.
inline void use_in(three_d::TrainingConfig& training, bool regather) {
  training.model.sequence_parallel = true;
  training.model.regather = regather;
  training.parts.worker = three_d::make_worker<Parts>;
  training.parts.sum_partials = pay_partials;
}
// end composition

}  // namespace tessera::sequence_parallel
