// A trained model at work: its loss over a whole text, and a text that it writes. Both run forward only and
// under the same cut, so that no rank holds more of the model than in training. All ranks take part: each
// replica computes its share of the loss, and every replica writes the same text.
#pragma once

#include <numeric>

#include "07_data_parallel/data_parallel.hpp"
#include "08_three_d/trainer.hpp"

namespace tessera::three_d {

using pipeline::Forward;

/// This rank's tokens of the microbatches of `batch` that its replica computes. The microbatches
/// that the replicas compute at the same time follow one another in the batch: together they would be one
/// microbatch of fewer replicas.
inline std::vector<Tokens> own_microbatches(const Tokens& batch, const Config& s, const Trainer& trainer) {
  const int d = trainer.mesh().sizes.dp, m = s.training.microbatches;
  const auto all = gpt::microbatches_of(batch, m * d);
  std::vector<Tokens> mine;
  for (int i = trainer.mesh().dp->rank(); i < m * d; i += d)
    mine.push_back(trainer.own_tokens(all.at(static_cast<std::size_t>(i))));
  return mine;
}

inline std::int64_t whole_sequences(const Config& s) { return (s.text.size() - 1) / s.seq(); }

/// Which of the text's whole sequences a replica evaluates.
inline Range own_sequences(const Config& s, int replica) {
  return data_parallel::own_rows(whole_sequences(s), replica, s.sizes.dp);
}
/// How many microbatches every replica computes for them: as many as the replica with the most sequences.
inline std::int64_t own_forwards(const Config& s) {
  const std::int64_t b = s.training.model.attention.options.batch,
                     most = (whole_sequences(s) + s.sizes.dp - 1) / s.sizes.dp;
  return (most + b - 1) / b;
}

// begin evaluate
/// The mean loss over all whole sequences, on every rank. `on_progress`: after each microbatch.
inline double evaluate(
    const Trainer& model, const Config& s,
    const std::function<void(std::int64_t done)>& on_progress = [](std::int64_t) {}) {
  const Phase phase = model.mesh().pp->phase("eval");
  const std::int64_t b = s.training.model.attention.options.batch, seq = s.seq();
  const Range own = own_sequences(s, model.mesh().dp->rank());
  double sum = 0;
  for (std::int64_t done = 0; done < own_forwards(s); ++done) {
    const std::int64_t first = own.begin + done * b;
    std::vector<std::size_t> places;  // where too few are left, the first stands in, and does not count
    for (std::int64_t i = first; i < first + b; ++i)
      places.push_back(static_cast<std::size_t>((i < own.end ? i : own.begin) * seq));
    const Forward out = model.forward(model.own_tokens(gpt::sequences_at(s.text, places, seq)));
    on_progress(done + 1);
    if (!out.losses.defined()) continue;
    std::vector<double> counts(static_cast<std::size_t>(b * seq), 0);
    std::fill_n(counts.begin(), std::clamp<std::int64_t>(own.end - first, 0, b) * seq, 1);
    const auto losses = out.losses.values(),
               counted = model.cut_tokens(Tensor::of(b * seq, 1, counts)).values();
    sum = std::inner_product(losses.begin(), losses.end(), counted.begin(), sum);
  }
  return sum_over_replicas(sum, model.mesh()) / static_cast<double>(whole_sequences(s) * seq);
}
// end evaluate

// begin draw
/// Draws id j with probability p_j^(1/temperature) / sum, though each rank of tp has only its own columns of
/// P, (1, vocab_r). With u_j uniform in (0, 1), the id with the largest log p_j - temperature log(-log(u_j))
/// has just this distribution (the Gumbel-max trick; Maddison, Tarlow and Minka 2014, section 2). u_j depends
/// on seed, step and id alone, so every cut draws the same id. Each rank sends a pair of numbers. Temperature
/// 0 gives the most probable id.
inline std::int64_t draw(const Tensor& p, Range own, double temperature, const Random& random,
                         std::int64_t first, Communicator& tp) {
  double best = -INFINITY, id = -1;
  const std::vector<double> values = p.values();
  for (std::int64_t j = own.begin; j < own.end; ++j) {
    const double u = (random.bits(static_cast<std::uint64_t>(first + j)) + 0.5) * 0x1p-32;
    const double score =
        std::log(values[static_cast<std::size_t>(j - own.begin)]) - temperature * std::log(-std::log(u));
    if (score > best) best = score, id = static_cast<double>(j);
  }
  const std::vector<double> all = tp.all_gather(Tensor::of(1, 2, {best, id}), 0).values();
  best = -INFINITY;
  for (std::size_t r = 0; r < all.size(); r += 2)
    if (all[r] > best) best = all[r], id = all[r + 1];
  expect(std::isfinite(best), "no token can be drawn: the logits are no numbers");
  return static_cast<std::int64_t>(id);
}
// end draw

// begin sample
/// `s.sample` tokens after the text's first one, the same on every rank. Nothing is kept from one token to
/// the next: each costs a forward over the last `seq` tokens.
inline std::vector<std::uint16_t> sample(const Trainer& model, const Config& s, std::uint64_t seed) {
  const Mesh& mesh = model.mesh();
  const Phase phase = mesh.pp->phase("sample");
  const Random random(seed, "sample");
  const std::int64_t v = s.training.model.vocabulary;
  std::vector<std::uint16_t> text = {s.text.ids.at(0)};
  for (std::int64_t step = 0; step < s.sample; ++step) {
    const auto seen = std::min(static_cast<std::int64_t>(text.size()), s.seq());
    // The text is the first sequence of a microbatch. The mask is causal, so it does not see what follows it.
    std::vector<double> context(text.end() - seen, text.end());
    context.resize(static_cast<std::size_t>(s.training.model.attention.tokens()));
    const auto count = static_cast<std::int64_t>(context.size());
    const Tensor ids = Tensor::of(count, 1, context, DType::i32);
    const Forward out = model.forward(model.own_tokens({ids, ids}));
    const Tensor next = Tensor::of(1, 1, {0}, DType::i32);
    const auto [holder, row] = model.place_of(seen - 1);
    if (out.probabilities.defined() && mesh.cp->rank() == holder) {
      const Phase drawing = mesh.tp->phase("draw");
      const auto id = draw(out.probabilities.row_range(row, row + 1),
                           attention_heads::own_ids(v, mesh.tp->rank(), mesh.sizes.tp), s.temperature, random,
                           step * v, *mesh.tp);
      next.copy_from(Tensor::of(1, 1, {static_cast<double>(id)}, DType::i32));
    }
    mesh.pp->broadcast(next, mesh.sizes.pp - 1);  // the first stage needs it next
    if (mesh.sizes.cp > 1) mesh.cp->broadcast(next, holder);
    text.push_back(static_cast<std::uint16_t>(next.values()[0]));
  }
  return text;
}
// end sample

}  // namespace tessera::three_d
