// What lesson 12 shows: four tokens by hand, as a table and as a picture; the load of the ranks; and what
// depends on the number of ranks, if it is counted over a rank's own tokens.
#pragma once

#include "12_experts/harness/proof.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::experts {

/// Four tokens on two ranks, and an expert on each: Wr is the identity, E_0 doubles and E_1 negates.
struct Example {
  Tensor x = Tensor::of(4, 2, {1, 2, 3, 1, 2, 1, 1, 0}), p = softmax(x);
  std::vector<std::int64_t> expert = top_k(p, 1), row;  // of each token, and its row there
  Example() {
    std::int64_t rows[2] = {};
    for (const std::int64_t i : expert) row.push_back(rows[i]++);
  }
};

inline std::string by_hand() {
  const Example e;
  std::vector<std::vector<std::string>> rows = {
      {"token", "of rank", "x", "p", "expert", "on rank", "row", "y = p_i E_i(x)"}};
  const auto two = [](double a, double b) { return number(a) + "  " + number(b); };
  for (std::int64_t t = 0; t < 4; ++t) {
    const auto x = e.x.row_range(t, t + 1).values(), p = e.p.row_range(t, t + 1).values();
    const std::int64_t i = e.expert[t];
    const double factor = p[i] * (i == 0 ? 2 : -1);
    rows.push_back({std::to_string(t), std::to_string(t / 2), two(x[0], x[1]), two(p[0], p[1]),
                    std::to_string(i), std::to_string(i), std::to_string(e.row[t]),
                    two(factor * x[0], factor * x[1])});
  }
  return "  By hand (2 ranks with an expert each; Wr is the identity, E_0 doubles, E_1 negates)\n" +
         table(rows, "llllllll", 4);
}

/// The same: tokens on the left, the rows of the experts in the middle, and the outputs at home on the right.
inline std::string drawing() {
  constexpr double w = 110, h = 34, gap = 12, left = 30, middle = 285, right = 540, top = 70;
  const Example e;
  const auto home = [](std::int64_t t) { return top + t * (h + gap) + (t / 2) * 20; };
  const auto there = [&](std::int64_t t) {
    return top + (e.expert[t] == 0 ? 0 : 3 * (h + gap) + 20) + e.row[t] * (h + gap);
  };
  std::string text =
      svg_open(680, 320, "four tokens on two ranks go to the experts that they chose, and come home");
  for (const auto& [x, words] :
       {std::pair{left, "tokens"}, {middle, "rows of the experts"}, {right, "outputs at home"}})
    text += svg_text(x + w / 2, 24, words);
  for (const auto& [x, words] :
       {std::pair{(left + w + middle) / 2, "all-to-all"}, {(middle + w + right) / 2, "and back"}})
    text += svg_text(x, 50, words);
  for (std::int64_t t = 0; t < 4; ++t) {
    const int rank = static_cast<int>(t / 2);
    const auto box = [&](double x, double y, const std::string& words) {
      text += svg_rectangle(x, y, w, h, colour(rank)) +
              svg_text(x + w / 2, y + h / 2 + 5, words, format(" style=\"fill:{}\"", ink(rank)));
    };
    box(left, home(t), format("token {}", t)), box(middle, there(t), format("token {}", t)),
        box(right, home(t), format("y {}", t));
    for (const auto& [from, y, to, end] :
         {std::tuple{left + w, home(t), middle, there(t)}, {middle + w, there(t), right, home(t)}})
      text += format("<path class=\"arrow\" d=\"M{:g} {:g}L{:g} {:g}\" fill=\"none\"/>\n", from + 3,
                     y + h / 2, to - 3, end + h / 2);
  }
  for (int i = 0; i < 2; ++i)
    text += svg_text(middle + w / 2, i == 0 ? top - 8 : top + 3 * (h + gap) + 12,
                     format("expert {}, on rank {}", i, i));
  return text + "</svg>\n";
}

/// The largest of some counts, over their mean.
inline double imbalance(const std::vector<std::int64_t>& counts) {
  const double all = double(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  return all == 0 ? 1 : double(std::ranges::max(counts)) * double(counts.size()) / all;
}

/// How many rows each rank and each expert got; and the auxiliary loss and the choices that a capacity drops,
/// if the same tokens were cut over other numbers of ranks.
inline std::string load(const Tensor& p, const Config& c, int ranks) {
  const Choices choices(p, c, ranks);
  const Range all{0, c.tokens};
  std::vector<std::int64_t> of_rank(ranks), of_expert;
  const Table sent = rows_sent(choices, c, ranks);
  for (const auto& from : sent)
    for (int to = 0; to < ranks; ++to) of_rank[to] += from[to];
  for (std::int64_t i = 0; i < c.experts; ++i) of_expert.push_back(choices.count(all, i, i + 1));
  std::vector<std::vector<std::string>> rows = {{"Load", "rows", "max/mean"}};
  rows.push_back({"  of each rank", join(of_rank, " "), format("{:.2f}", imbalance(of_rank))});
  rows.push_back({"  of each expert", join(of_expert, " "), format("{:.2f}", imbalance(of_expert))});
  std::string text = table(rows, "lll", 2);

  Config dropping = c;
  if (c.capacity == 0) dropping.capacity = 1;
  rows = {{"The same tokens, cut over"},
          {"  aux, f of all ranks' tokens"},
          {"  aux, f of a rank's own tokens"},
          {format("  choices over --capacity {:g}", dropping.capacity)}};
  for (const int parts : {1, 2, 4, 8}) {
    rows[0].push_back(format("{} rank{}", parts, parts > 1 ? "s" : ""));
    rows[1].push_back(number(aux_loss(choices, c, 1))),
        rows[2].push_back(number(aux_loss(choices, c, parts)));
    rows[3].push_back(
        std::to_string(c.tokens * c.top_k - Choices(p, dropping, parts).count(all, 0, c.experts)));
  }
  return text + table(rows, "lrrrr", 2);
}

}  // namespace tessera::experts
