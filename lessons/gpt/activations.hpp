// How many activations a chunk keeps of a microbatch, from the sizes alone.
#pragma once

#include "gpt/model.hpp"

namespace tessera::gpt {

/// Elements that a chunk keeps of a microbatch: what its forward leaves for the backward, and what its dX
/// adds until its dW.
struct KeptActivations {
  std::int64_t forward = 0, backward_input = 0;
};

// begin kept
/// Of `layers` blocks, and of the head if `last`, on rank `rank` of t. A microbatch has n tokens of width W;
/// F = 4 W, and S keys a row (1 where attention streams):
///
///   forward  X, ln_1(X), Xa, ln_2(Xa) 4 n W     means and deviations  4 n     probabilities  n heads/t S
///            Q, K V, O     2 n (W + KV)/t       gelu, before and after  2 n F/t
///   dX       dY, dln_2, dXa, dln_1    4 n W     dQ, dK dV  n (W + 2 KV)/t     before the gelu  n F/t
///
/// Attention over tokens that are cut over cp always streams, and n is this rank's part. Ulysses keeps Q, K
/// and V of its own heads for all tokens instead, and their O. Where tokens are cut over tp, too (lesson 09),
/// the first column counts this rank's rows. A product needs all rows, and what is gathered for it is kept
/// beside: ln_1(X) and ln_2(Xa), unless they are gathered again; dY and dXa. A number that stands for a row
/// (a mean, a deviation, a loss) takes as much as `wide` elements.
inline KeptActivations kept_activations(const ModelConfig& m, std::int64_t layers, bool last, int rank, int t,
                                        std::int64_t wide) {
  const std::int64_t n = m.rows(), own = m.own_rows(t), w = m.width(), f = m.ffn();
  const std::int64_t normed = m.regather ? own : n, gathered = m.sequence_parallel ? n : 0;
  const std::int64_t ids = attention_heads::own_ids(m.vocabulary, rank, t).size();
  const auto& o = m.attention.options;
  const bool exchanged = m.cp > 1 && m.way == Way::ulysses;
  const std::int64_t kv = 2 * m.attention.kv_width(), ranks = std::int64_t{m.cp} * t,
                     qkvo = exchanged ? 3 * w + copied_kv(m.attention, ranks) : 2 * w + kv;
  const std::int64_t core = n * m.attention.heads / t * (m.cp > 1 || o.streams() ? wide : o.seq);
  KeptActivations all{layers * (own * (2 * w + 4 * wide) + normed * 2 * w + n * (qkvo + 2 * f) / t + core),
                      layers * (4 * own * w + 2 * gathered * w + n * (w + kv + f) / t)};
  if (last) {
    all.forward += own * (w + 2 * wide) + n * w;  // X and its means and deviations, ln_f(X)
    all.forward += n * (ids + wide);              // the probabilities and the losses
    all.backward_input +=
        own * w - n * wide;  // dln_f; the gradient of the logits takes the place of the probabilities
  }
  return all;
}
// end kept

}  // namespace tessera::gpt
