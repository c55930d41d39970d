// A GPT-2 cut three ways: a stage's chunk with tensor-parallel blocks, and the embedding cut by the
// vocabulary, tied to the head over first and last stage.
#pragma once

#include "06_pipeline/build.hpp"
#include "06_pipeline/schedule.hpp"
#include "08_three_d/mesh.hpp"
#include "08_three_d/vocab_parallel.hpp"

namespace tessera::three_d {

using pipeline::Model;
using pipeline::Parameter;
using Chunk = pipeline::Chunk<VocabParallelEmbedding, VocabParallelHead>;

struct Training {
  Model model;  // options.batch: sequences of a microbatch; tokens: of the whole batch
  pipeline::Schedule schedule = pipeline::Schedule::one_f_one_b;
  int chunks = 1, microbatches = 1;  // microbatches of one replica
  bool adamw = false;
  double lr = 0.1, clip = 0;       // clip 0: the gradient's norm is left alone
  std::int64_t bucket = 16 << 10;  // bytes of gradients that are summed over dp in one call, at least
  bool learns = true;              // false: no gradients, no optimiser
};

/// Elements that rank r of tp owns of layers and ends: what is cut, and what every rank of tp has.
inline std::int64_t own_elements(const Model& m, std::int64_t layers, bool first, bool last, int rank,
                                 int tp) {
  const std::int64_t w = m.width(), f = m.ffn(), ids = own_ids(m.vocabulary, rank, tp).size();
  const std::int64_t cut =
      ((w + 1) * 3 * w + w * w + (w + 1) * f + f * w) / tp;  // c_attn, c_proj, c_fc, c_proj
  return layers * (cut + 6 * w) + (first ? (ids + m.attention.options.seq) * w : 0) +
         (last ? 2 * w + (first ? 0 : ids * w) : 0);
}

// begin builder
class GptBuilder : public pipeline::Builder {
 public:
  using Builder::Builder;

  Chunk chunk(Range layers, bool first, bool last) {
    Chunk made;
    if (first) made.embedding = embedding();
    auto& first_of_block = firsts_.emplace_back();
    for (std::int64_t l = layers.begin; l < layers.end; ++l) {
      first_of_block.push_back(parameters.size());
      made.blocks.push_back(block(format("h.{}.", l)));
    }
    first_of_block.push_back(parameters.size());
    if (last) made.head = head();
    made.positions = positions(model_);
    made.tokens = model_.tokens;
    return made;
  }

  /// On a last stage that is not the first too: its copy of wte, listed under the same name. It starts equal,
  /// and stays so, because both stages step with the sum of both gradients.
  bool has_copy() const { return copies_; }
  /// The first parameter of a chunk's block; of the block after the last one what the head begins with.
  std::size_t first_of(std::size_t chunk, std::size_t block) const { return firsts_.at(chunk).at(block); }
  Slice wte_slice() const {
    return {model_.vocabulary,
            model_.width(),
            {own_ids(model_.vocabulary, rank_, ranks_)},
            {{0, model_.width()}}};
  }

 private:
  VocabParallelEmbedding embedding() {
    const Slice wte = wte_slice(), wpe = Slice::whole(model_.attention.options.seq, model_.width());
    const VocabParallelEmbedding made{Placed<Shard<0>>(make_("wte.weight", wte)),
                                      Placed<Replicated>(make_("wpe.weight", wpe))};
    list("wte.weight", wte, made.wte.local(), made.dwte.local());
    list("wpe.weight", wpe, made.wpe.local(), made.dwpe.local());
    tied_ = {made.wte, made.dwte};
    return made;
  }
  VocabParallelHead head() {
    if (!tied_.first.local().defined()) {
      copies_ = true;
      const Placed<Shard<0>> copy(make_("wte.weight", wte_slice()));
      tied_ = {copy, zero_gradient(copy)};
      list("wte.weight", wte_slice(), tied_.first.local(), tied_.second.local());
    }
    return {norm("ln_f"), tied_.first, tied_.second};
  }

  std::pair<Placed<Shard<0>>, Placed<Shard<0>>> tied_;  // wte and its gradient, where this rank has them
  bool copies_ = false;
  std::vector<std::vector<std::size_t>> firsts_;  // of each chunk
};
// end builder

}  // namespace tessera::three_d
