// All axes side by side: what each one cuts, and what its ranks send when no other axis is cut. The lesson
// runs each of them alone, counts the bytes of a step, and prints them beside bytes_alone.
#pragma once

#include "13_all_axes/factorisations.hpp"

namespace tessera::all_axes {

struct Axis {
  std::string name;
  ParallelSizes sizes;
  bool over_tp = false;  // lesson 09
  int zero = 0;          // lesson 10
  std::string cut, when, sends, formula, grows, where;
};

// begin axes
/// Each axis alone, on p ranks. Bytes are of all p ranks in a step: m microbatches of n tokens each, L layers
/// of width W, 2 KV columns of K and V, vocab ids, Psi weights of 4 B. E experts lie in every second layer.
inline std::vector<Axis> axes(int n) {
  // clang-format off
  return {
      {"nothing", {}, false, 0, "nothing", "-", "-", "0", "-", "one device"},
      {"tp", {n}, false, 0, "heads, columns, ids", "in each layer, both ways", "sums of activations",
       "m 2 (p-1) 4 ((4 L + 2) n W + 3 n)", "tokens, layers", "inside a machine"},
      {"sequence", {n}, true, 0, "and tokens between", "the same, in two halves", "activations",
       "as tp, and 2 (p-1) 4 (6 L + 2) W", "tokens, layers", "wherever tp is"},
      {"cp", {1, 1, 1, n}, false, 0, "tokens of a sequence", "in each attention", "keys and values",
       "m L (3 p - 2) 4 n 2 KV, and dp's", "tokens, layers", "where one sequence is too long"},
      {"pp", {1, n}, false, 0, "layers", "between two stages", "activations, gradients",
       "m 2 (p-1) 4 n W, and 2 4 vocab W", "tokens, stages", "across machines"},
      {"dp", {1, 1, n}, false, 0, "the batch", "once a step", "sums of gradients",
       "2 (p-1) 4 Psi", "weights", "across machines"},
      {"ZeRO 1", {1, 1, n}, false, 1, "and the optimiser", "once a step", "gradients, weights",
       "2 (p-1) 4 Psi", "weights", "wherever dp is"},
      {"ZeRO 2", {1, 1, n}, false, 2, "and gradients", "each microbatch", "gradients, weights",
       "(m + 1) (p-1) 4 Psi", "weights, m", "with few microbatches"},
      {"ZeRO 3", {1, 1, n}, false, 3, "and weights", "each microbatch, both ways", "weights, gradients",
       "about 3 m (p-1) 4 Psi", "weights, m", "where weights do not fit"},
      {"ep", {1, 1, n, 1, n}, false, 0, "experts", "in each layer of experts", "tokens",
       "4 rows 4 W and counts; dp's but experts", "tokens, choices", "inside a machine, if E allows"}};
  // clang-format on
}
// end axes

// begin bytes
// task 13.bytes (design, 5 points, 60 min): the bytes that all ranks together send in a step of `s`, of whose
// axes one alone is cut. An element of a weight or an activation takes e bytes, one of a gradient or of a
// number for each token g. `moved`: the rows that leave their rank for an expert in one forward of all
// microbatches. Hint: the table above has the formulas; lessons 05 to 12 derive them. Under ZeRO each part of
// own_parts is padded to a multiple of n, and stage 3 brings a tied wte to both ends in the forward.
inline std::int64_t bytes_alone(const Config& s, std::int64_t e, std::int64_t g, std::int64_t moved) {
  const ModelConfig& model = s.training.model;
  const std::int64_t m = s.training.microbatches, N = model.attention.tokens(), L = model.layers,
                     W = model.width(), K = model.attention.kv_width(), V = model.vocabulary,
                     P = gpt::elements_of(model), n = s.sizes.ranks();
  if (s.sizes.tp > 1) {
    const std::int64_t again = model.regather ? 2 * L : 0;  // of each microbatch's gathers
    const std::int64_t partials = model.sequence_parallel ? (6 * L + 2) * W : 0;
    return m * (n - 1) * ((2 * (4 * L + 2) + again) * N * W * e + 6 * N * g) + 2 * (n - 1) * partials * g;
  }
  if (s.sizes.pp > 1) return m * 2 * (n - 1) * N * W * e + (model.tied ? 2 * V * W * g : 0);
  if (s.sizes.cp > 1)
    return m * L * (3 * n - 2) * N * 2 * K * e + 2 * (n - 1) * P * g;  // the ring: K V, K V again, dK dV home
  if (s.sizes.ep > 1) {
    const std::int64_t layers = model.expert_layers(), experts = layers * n * gpt::own_experts(model);
    return 4 * moved * W * e + m * layers * (n - 1) * model.experts * 4 + 2 * (n - 1) * (P - experts) * g;
  }
  if (s.training.zero == 0) return 2 * (n - 1) * P * g;
  const auto all = [&](bool first) {
    std::int64_t sum = 0;
    for (const gpt::Part& part : gpt::own_parts(model, {0, L}, first, true, 0, 1))
      sum += padded(part.elements, n);
    return sum;
  };
  const std::int64_t gathers = s.training.zero < 3
                                   ? all(true)
                                   : m * (all(true) + all(false) + (model.tied ? padded(V * W, n) : 0)),
                     sums = (s.training.zero > 1 ? m : 1) * all(true);
  return (n - 1) * (sums * g + gathers * e);
}
// end task
// end bytes

}  // namespace tessera::all_axes
