// Shared by the tests that run a GPT: its sizes, and the ways to cut it.
#pragma once

#include <vector>

#include "08_three_d/mesh.hpp"
#include "gpt/model.hpp"

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
