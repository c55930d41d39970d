// The sizes of lesson 12, from the command line; and the layer's choices by their definition, from which
// follows what every rank computes, sends and holds.
#pragma once

#include "07_data_parallel/data_parallel.hpp"
#include "12_experts/experts.hpp"
#include "app/app.hpp"
#include "tensor/error.hpp"

namespace tessera::experts {

struct Config {
  std::int64_t tokens = 50, width = 24, ffn = 96, experts = 8, top_k = 2;
  int ep = 0;  // 0: all ranks
  double capacity = 0, aux = 0.01;
  double router_scale = 3;  // 0: all probabilities are equal

  int groups(int ranks) const { return ep == 0 ? 1 : ranks / ep; }
  int ep_of(int ranks) const { return ep == 0 ? ranks : ep; }
  Slice own(std::int64_t cols, int rank, int ranks) const {
    return {tokens, cols, {data_parallel::own_rows(tokens, rank, ranks)}, {{0, cols}}};
  }
  std::int64_t of_expert() const { return (width + 1) * ffn + (ffn + 1) * width; }
};

/// The rank of ep that has an expert.
inline int owner(std::int64_t expert, const Config& c, int ep) {
  return static_cast<int>(expert / (c.experts / ep));
}

inline void add_flags(App& app, Config& c) {
  app.size("--tokens", c.tokens, "N, of all ranks together");
  app.size("--width", c.width, "W, columns of X");
  app.size("--ffn", c.ffn, "F, hidden columns of an expert");
  app.size("--experts", c.experts, "E");
  app.flags().number("--top-k", c.top_k, 1, 64, "experts of a token; 1 is Switch, 2 as Mixtral has it");
  app.flags().number("--ep", c.ep, 0, 64, "ranks that share the experts out; 0: all");
  app.flags().real("--capacity", c.capacity, 0, 1e6,
                   "an expert takes at most F k n / E of a rank's n tokens; 0: all that come");
  app.flags().real("--aux", c.aux, 0, 1e3, "alpha, the factor of the auxiliary loss; 0: none");
}

/// Throws UsageError where the experts cannot be shared out.
inline void check_sizes(const Config& c, int ranks) {
  if (c.top_k > c.experts)
    throw UsageError(
        format("--top-k {} of --experts {}: --top-k {} or less would work", c.top_k, c.experts, c.experts));
  const auto fits = [&](std::int64_t ep) { return ranks % ep == 0 && c.experts % ep == 0; };
  if (!fits(c.ep_of(ranks)))
    throw UsageError(format("{} ranks cannot share out {} experts over --ep {}: --ep {} would work", ranks,
                            c.experts, c.ep_of(ranks), fitting(ranks, fits)));
}

/// Which experts the tokens choose, by the definition: expert i is the choice number r of a token if r
/// experts come before it, those with a larger p and those with an equal p and a lower index. With a
/// capacity, a choice is kept if fewer than C of the choices that come before it, in the tokens of its rank,
/// are the same expert.
struct Choices {
  std::int64_t experts;
  std::vector<double> p;           // (N, E)
  std::vector<std::int64_t> rank;  // (N, E)  the number of the choice
  std::vector<bool> kept;          // (N, E)

  Choices(const Tensor& probabilities, const Config& c, int ranks)
      : experts(c.experts), p(probabilities.values()), rank(p.size()), kept(p.size()) {
    for (std::size_t at = 0; at < p.size(); ++at)
      for (std::size_t first = at - at % experts, j = first; j < first + experts; ++j)
        rank[at] += p[j] > p[at] || (p[j] == p[at] && j < at);
    for (int r = 0; r < ranks; ++r) {
      const Range own = data_parallel::own_rows(c.tokens, r, ranks);
      const double most = c.capacity > 0 ? std::ceil(c.capacity * c.top_k * own.size() / c.experts) : 1e18;
      for (std::int64_t at = own.begin * experts; at < own.end * experts; ++at) {
        double before = 0;
        for (std::int64_t j = own.begin * experts + at % experts; j < own.end * experts; j += experts)
          before += rank[j] < rank[at] || (rank[j] == rank[at] && j < at);
        kept[at] = rank[at] < c.top_k && before < most;
      }
    }
  }
  /// The kept choices of a rank's tokens for the experts [first, last).
  std::int64_t count(Range tokens, std::int64_t first, std::int64_t last) const {
    std::int64_t n = 0;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
      n += std::count(kept.begin() + token * experts + first, kept.begin() + token * experts + last, true);
    return n;
  }
};

using Table = std::vector<std::vector<std::int64_t>>;
/// The rows that go from each rank to each rank of its ep group, by the choices: table[from][to].
inline Table rows_sent(const Choices& choices, const Config& c, int ranks) {
  const std::int64_t ep = c.ep_of(ranks), own = c.experts / ep;
  Table table(ranks);
  for (int from = 0; from < ranks; ++from)
    for (int to = 0; to < ranks; ++to) {
      const bool together = from / ep == to / ep;
      const std::int64_t first = to % ep * own;
      table[from].push_back(
          together ? choices.count(data_parallel::own_rows(c.tokens, from, ranks), first, first + own) : 0);
    }
  return table;
}

}  // namespace tessera::experts
