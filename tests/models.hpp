// Shared by the tests that run a GPT: its sizes, and the ways to cut it.
#pragma once

#include <vector>

#include "08_three_d/config.hpp"
#include "gpt/harness/command_line.hpp"

namespace tessera::test {

/// A model as small as it can be, unless a test says otherwise.
struct GptSizes {
  std::int64_t width = 8, heads = 2, layers = 2, vocabulary = 11;
  std::int64_t batch = 1, seq = 4;  // sequences of a microbatch, tokens of a sequence
  bool tied = false;
  std::int64_t tokens() const { return batch * seq; }
};

/// The loss is the mean over one microbatch, where the caller does not set `tokens`.
inline gpt::ModelConfig model_of(const GptSizes& s) {
  gpt::ModelConfig model{{s.width, s.heads, s.heads, {}}, s.layers, s.vocabulary, s.tokens(), s.tied};
  model.attention.options.batch = s.batch;
  model.attention.options.seq = s.seq;
  return model;
}

/// A text in which an id is not always followed by the same id.
inline std::vector<std::uint16_t> made_up_ids(std::int64_t count, std::int64_t vocabulary) {
  std::vector<std::uint16_t> ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::uint16_t>((i * i + i / 7) % vocabulary));
  return ids;
}

/// Three steps of lesson 08 on a made-up text, with `batch` sequences for all replicas and microbatches.
inline three_d::Config run_on_text(const three_d::ParallelSizes& sizes, const GptSizes& model,
                                   std::int64_t batch, int microbatches) {
  three_d::Config s;
  s.sizes = sizes, s.batch = batch, s.steps = 3;
  s.training.model = model_of(model), s.training.microbatches = microbatches;
  gpt::set_batch(s.training.model, batch, sizes.dp * microbatches);
  s.text.ids = made_up_ids(300, model.vocabulary);
  return s;
}

/// Every factorisation of n into tp x pp x dp.
inline std::vector<three_d::ParallelSizes> factorisations(int n) {
  std::vector<three_d::ParallelSizes> all;
  for (int t = 1; t <= n; ++t)
    for (int d = 1; d <= n / t; ++d)
      if (n % (t * d) == 0) all.push_back({t, n / (t * d), d});
  return all;
}

/// Every factorisation of n into tp x cp x pp x dp.
inline std::vector<three_d::ParallelSizes> factorisations_with_cp(int n) {
  std::vector<three_d::ParallelSizes> all;
  for (int c = 1; c <= n; ++c)
    if (n % c == 0)
      for (three_d::ParallelSizes sizes : factorisations(n / c)) all.push_back(sizes), all.back().cp = c;
  return all;
}

inline std::string text(const three_d::ParallelSizes& sizes) {
  return format("tp {}, pp {}, dp {}, cp {}", sizes.tp, sizes.pp, sizes.dp, sizes.cp);
}

}  // namespace tessera::test
