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

  std::vector<Weight> weights() const { return expert_weights(width, ffn); }
  int ep_of(int ranks) const { return ep == 0 ? ranks : ep; }
  Range own(int rank, int ranks) const { return data_parallel::own_rows(tokens, rank, ranks); }
  std::int64_t of_expert() const { return (width + 1) * ffn + (ffn + 1) * width; }
};

inline void add_flags(App& app, Config& c) {
  app.size("--tokens", c.tokens, "N, of all ranks together");
  app.size("--width", c.width, "W, columns of X");
  app.size("--ffn", c.ffn, "F, hidden columns of an expert");
  app.size("--experts", c.experts, "E");
  app.flags().number("--top-k", c.top_k, 1, 64, "experts of a token; 1 is Switch, 2 as Mixtral has it");
  app.flags().number("--ep", c.ep, 0, 64, "ranks that share the experts out; 0: all");
  app.flags().real("--capacity", c.capacity, 0, 1e6,
                   "an expert takes at most CAPACITY n top-k / E of a rank's n tokens; 0: all that come");
  app.flags().real("--aux", c.aux, 0, 1e3, "alpha, the factor of the auxiliary loss; 0: none");
}

/// Throws UsageError where the experts cannot be shared out.
inline void check_sizes(const Config& c, int ranks, const Options& options) {
  if (options.math == "tf32")
    throw UsageError(
        "--math tf32 rounds the router's factors, and a token may choose other experts: --math f32 would "
        "work");
  refuse_if(c.top_k > c.experts, "--top-k {} of --experts {}: --top-k {} or less would work", c.top_k,
            c.experts, c.experts);
  const auto fits = [&](std::int64_t ep) { return ranks % ep == 0 && c.experts % ep == 0; };
  refuse_if(!fits(c.ep_of(ranks)), "{} ranks cannot share out {} experts over --ep {}: --ep {} would work",
            ranks, c.experts, c.ep_of(ranks), fitting(ranks, fits));
}

/// Which experts the tokens choose, by the definition: expert i is choice number r of a token if r experts
/// come before it, those with a larger p and those with an equal p and a lower index. With a capacity, a
/// choice is kept if fewer than C of the choices that come before it, of its rank's tokens, are the same
/// expert.
struct Choices {
  Config c;
  int ranks;
  std::vector<double> p;             // (N, E)
  std::vector<std::int64_t> number;  // (N, E)  which choice of its token the expert is, from 0
  std::vector<bool> kept;            // (N, E)

  Choices(std::vector<double> probabilities, const Config& config, int of_ranks)
      : c(config), ranks(of_ranks), p(std::move(probabilities)), number(p.size()), kept(p.size()) {
    const std::int64_t E = c.experts;
    for (std::int64_t at = 0; at < std::ssize(p); ++at)
      for (std::int64_t j = at - at % E; j < at - at % E + E; ++j)
        number[at] += p[j] > p[at] || (p[j] == p[at] && j < at);
    for (int r = 0; r < ranks; ++r) {
      const auto [begin, end] = c.own(r, ranks);
      const double most = c.capacity > 0 ? std::ceil(c.capacity * c.top_k * (end - begin) / E) : INFINITY;
      for (std::int64_t at = begin * E; at < end * E; ++at) {
        double before = 0;
        for (std::int64_t j = begin * E + at % E; j < end * E; j += E)
          before += number[j] < number[at] || (number[j] == number[at] && j < at);
        kept[at] = chosen(at) && before < most;
      }
    }
  }
  bool chosen(std::int64_t at) const { return number[at] < c.top_k; }
  /// The kept choices of these tokens for these experts.
  std::int64_t count(Range tokens, Range experts) const {
    std::int64_t n = 0;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
      for (std::int64_t i = experts.begin; i < experts.end; ++i) n += kept[token * c.experts + i];
    return n;
  }
  /// Whether this expert is chosen, or is not, by less than `margin` in log p.
  bool undecided(std::int64_t at, double margin) const {
    double last = INFINITY, next = 0;  // the least p that is chosen, and the largest that is not
    for (std::int64_t j = at - at % c.experts, end = j + c.experts; j < end; ++j)
      chosen(j) ? last = std::min(last, p[j]) : next = std::max(next, p[j]);
    return (chosen(at) ? p[at] / next : last / p[at]) < std::exp(margin);
  }
  /// The rows that rank `from` sends to rank `to`.
  std::int64_t rows(int from, int to) const {
    const std::int64_t ep = c.ep_of(ranks), own = c.experts / ep, first = to % ep * own;
    return from / ep == to / ep ? count(c.own(from, ranks), {first, first + own}) : 0;
  }
  std::int64_t rows_to(int to) const {
    std::int64_t n = 0;
    for (int from = 0; from < ranks; ++from) n += rows(from, to);
    return n;
  }
  /// The rows of each rank's experts, and of each expert.
  std::vector<std::int64_t> of_ranks() const {
    std::vector<std::int64_t> rows;
    for (int rank = 0; rank < ranks; ++rank) rows.push_back(rows_to(rank));
    return rows;
  }
  std::vector<std::int64_t> of_experts() const {
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < c.experts; ++i) rows.push_back(count({0, c.tokens}, {i, i + 1}));
    return rows;
  }

  /// alpha E sum share_i mean_i over the tokens of each of `parts` ranks by themselves, and then the parts'
  /// mean.
  double aux(int parts) const {
    double sum = 0;
    for (int part = 0; part < parts; ++part)
      for (std::int64_t i = 0; i < c.experts; ++i) {
        const auto [begin, end] = c.own(part, parts);
        double f = 0, mean = 0;
        for (std::int64_t at = begin * c.experts + i; at < end * c.experts; at += c.experts)
          f += double(chosen(at)) / double(c.top_k * (end - begin)), mean += p[at] / double(end - begin);
        sum += c.aux * double(c.experts) * f * mean;
      }
    return sum / parts;
  }
};

}  // namespace tessera::experts
