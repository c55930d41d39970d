// What a rank computes: which products a block has, how large they are under a cut, how many bytes pass
// through memory beside them, and what is kept of a block until the backward.
#pragma once

#include "14_plan/cut.hpp"
#include "gpt/activations.hpp"

namespace tessera::plan {

/// The product of matrices (rows, inner) (inner, cols), `count` times.
struct Product {
  double rows, cols, inner, count = 1;
  double flops() const { return 2 * rows * cols * inner * count; }
};

/// The products with weights in a block's forward on one of t ranks, for its n tokens. With an even router
/// each of a rank's experts gets equally many tokens.
inline std::vector<Product> weight_products(const ModelConfig& m, int t, bool experts) {
  const auto n = static_cast<double>(m.rows()), w = static_cast<double>(m.width()),
             f = static_cast<double>(m.ffn()), qkv = w + 2 * static_cast<double>(m.attention.kv_width());
  std::vector<Product> all = {{n, qkv / t, w}, {n, w, w / t}};
  if (!experts) return all.push_back({n, f / t, w}), all.push_back({n, w, f / t}), all;
  const auto own = static_cast<double>(m.own_rows(t)), here = static_cast<double>(m.experts) / m.ep,
             each = own * static_cast<double>(m.top_k) / here;
  all.insert(all.end(), {{own, static_cast<double>(m.experts), w}, {each, f, w, here}, {each, w, f, here}});
  return all;
}
/// The products of attention itself.
inline std::vector<Product> attention_products(const ModelConfig& m, int t) {
  const auto s = static_cast<double>(m.seq()), heads = static_cast<double>(m.attention.heads),
             d = static_cast<double>(m.width()) / heads,
             each = heads / t * static_cast<double>(m.attention.options.batch);
  return {{s / m.cp, s, d, each}, {s / m.cp, d, s, each}};  // Q K' and P V
}
inline Product head_product(const ModelConfig& m, int t) {
  return {static_cast<double>(m.rows()), static_cast<double>(m.vocabulary) / t,
          static_cast<double>(m.width())};
}

/// FLOPs of a step of the whole model: forward, dX and dW, and with `again` the blocks' forward once more.
/// That is 72 B s l h^2 (1 + s/(6h) + V/(12 l h)), or with `again` 96 and 16 in place of 72 and 12 (Narayanan
/// et al. 2021).
inline double step_flops(const ModelConfig& model, std::int64_t batch, bool again) {
  ModelConfig m = model;
  m.attention.options.batch = batch;
  double blocks = 0;
  for (std::int64_t layer = 0; layer < m.layers; ++layer)
    for (const auto& products : {weight_products(m, 1, m.has_experts(layer)), attention_products(m, 1)})
      for (const Product& one : products) blocks += one.flops();
  return (again ? 4 : 3) * blocks + 3 * head_product(m, 1).flops();
}

/// Seconds of computation: in products of matrices, and in passes over memory.
struct Seconds {
  double products = 0, passes = 0;
  double all() const { return products + passes; }
  Seconds operator+(const Seconds& b) const { return {products + b.products, passes + b.passes}; }
};

/// The seconds of each pass.
struct Work {
  Seconds forward, backward_input, backward_weight;
  Work operator+(const Work& b) const {
    return {forward + b.forward, backward_input + b.backward_input, backward_weight + b.backward_weight};
  }
};

/// The seconds of attention's own products in a block's forward.
inline double attention_seconds(const Question& asked, const ModelConfig& m, int t) {
  double all = 0;
  for (const auto& [rows, cols, inner, count] : attention_products(m, t))
    all += count * product_seconds(asked.machine, asked.reached, static_cast<double>(asked.weight_bytes),
                                   rows, cols, inner);
  return all;
}

// begin work
/// The work of one block on a microbatch. Beside the products a forward reads or writes about 11 activations
/// of (n, W) that tp does not cut (two norms: 4; twice bias, dropout, residual: 7), 8 of (n, W/t) around
/// attention, and 2 of (n, F/t) at the gelu; a backward twice as many. Experts also gather their rows and put
/// them back. Where attention is not one fused kernel, softmax and dropout pass 4.5 times over all scores,
/// and 5.5 times backward.
inline Work block_work(const Question& asked, const ModelConfig& m, int t, Recompute recompute,
                       bool experts) {
  const auto seconds = [&](double rows, double cols, double inner, double count) {
    return count * product_seconds(asked.machine, asked.reached, static_cast<double>(asked.weight_bytes),
                                   rows, cols, inner);
  };
  const auto passes = [&](double elements) {
    return pass_seconds(asked.machine, asked.reached, elements * static_cast<double>(asked.weight_bytes));
  };
  const auto n = static_cast<double>(m.rows()), own = static_cast<double>(m.own_rows(t)),
             w = static_cast<double>(m.width()), f = static_cast<double>(m.ffn());
  Work work;
  for (const auto& [rows, cols, inner, count] : weight_products(m, t, experts)) {
    work.forward.products += seconds(rows, cols, inner, count);
    work.backward_input.products += seconds(rows, inner, cols, count);   // dX = dY A'
    work.backward_weight.products += seconds(inner, cols, rows, count);  // dA = X' dY
  }
  const double inner = experts ? static_cast<double>(m.top_k) * own * (2 * f + 4 * w) : 2 * f * n / t;
  const double activations = passes(11 * own * w + 8 * w * n / t + inner);
  work.forward.passes = activations, work.backward_input.passes = 2 * activations;

  Seconds scores;
  scores.products = attention_seconds(asked, m, t);
  const double kept =
      asked.fused_attention
          ? 0
          : passes(n * static_cast<double>(m.attention.heads) / t * static_cast<double>(m.seq()));
  scores.passes = 4.5 * kept;
  work.forward = work.forward + scores;
  work.backward_input = work.backward_input + Seconds{2 * scores.products, 5.5 * kept};
  if (asked.fused_attention) work.backward_input.products += 0.5 * scores.products;  // Q K' once more
  if (recompute == Recompute::selective && !asked.fused_attention)
    work.backward_input = work.backward_input + scores;
  if (recompute == Recompute::full) work.backward_input = work.backward_input + work.forward;
  return work;
}

/// The work of the head, whose softmax passes four times over all logits, in f32.
inline Work head_work(const Question& asked, const ModelConfig& m, int t) {
  const auto [rows, cols, inner, count] = head_product(m, t);
  const auto product = [&](double a, double b, double c) {
    return product_seconds(asked.machine, asked.reached, static_cast<double>(asked.weight_bytes), a, b, c);
  };
  return {{product(rows, cols, inner), pass_seconds(asked.machine, asked.reached, 16 * rows * cols)},
          {product(rows, inner, cols), 0},
          {product(inner, cols, rows), 0}};
}
// end work

/// Elements of activations that a rank keeps of some layers. A layer of experts keeps, in place of an MLP's,
/// what lesson 12 counts; an even router sends a rank as many rows as another. F = 4 W, n own tokens, k n
/// choices, E experts:
///
///   forward  probabilities, gates  2 n E (k = 1: n E)
///            of each choice its output, gate, place           k n (W + 1) and 8 B
///            of the rows that came: X, before and after gelu  k n (W + 2 F) and 8 B
///   dX       of the router  n E, of the rows that came  k n (W + F)
inline gpt::KeptActivations kept_of(const Question& asked, const ModelConfig& m, Range layers, bool last,
                                    int tp) {
  const std::int64_t wide = asked.wide_bytes / asked.weight_bytes,
                     numbers = (7 + asked.weight_bytes) / asked.weight_bytes;
  const std::int64_t n = m.rows(), own = m.own_rows(tp), w = m.width(), f = m.ffn(), rows = m.top_k * own;
  gpt::KeptActivations kept = gpt::kept_activations(m, layers.size(), last, 0, tp, wide);
  for (std::int64_t l = layers.begin; l < layers.end; ++l) {
    if (!m.has_experts(l)) continue;
    kept.forward +=
        (m.top_k > 1 ? 2 : 1) * own * m.experts * wide + rows * (2 * w + 2 * f + wide + 2 * numbers);
    kept.forward -= n * 2 * f / tp + ((m.regather ? own : n) - own) * w;  // its input is not gathered
    kept.backward_input +=
        own * m.experts * wide + rows * (w + f) - n * f / tp - (m.sequence_parallel ? n : 0) * w;
  }
  return kept;
}

}  // namespace tessera::plan
