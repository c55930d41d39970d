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
  Cells rows = {{"token", "of rank", "x", "p", "expert", "on rank", "row", "y = p_i E_i(x)"}};
  for (std::int64_t t = 0; t < 4; ++t) {
    const auto x = e.x.values(), p = e.p.values();
    const std::int64_t i = e.expert[t];
    const double factor = p[2 * t + i] * (i == 0 ? 2 : -1);
    const auto two = [t](const std::vector<double>& v, double f) {
      return number(f * v[2 * t]) + "  " + number(f * v[2 * t + 1]);
    };
    rows.push_back(row_of(t, t / 2, two(x, 1), two(p, 1), i, i, e.row[t], two(x, factor)));
  }
  return "  By hand (2 ranks with an expert each; Wr is the identity, E_0 doubles, E_1 negates)\n" +
         table(rows, "llllllll", 4);
}

/// The same as a picture: tokens on the left, the rows of the experts in the middle, and the outputs at home
/// on the right.
inline std::string drawing() {
  constexpr double w = 110, h = 34, line = 46, left = 30, apart = 255, top = 80, second = 2 * line + 20;
  const Example e;
  std::string text =
      svg_open(680, 320, "four tokens on two ranks go to the experts that they chose, and come home");
  const auto say = [&](double column, double y, const std::string& words) {
    text += svg_text(left + column * apart + w / 2, y, words);
  };
  say(0, 24, "tokens"), say(1, 24, "rows of the experts"), say(2, 24, "outputs at home");
  say(0.5, 50, "all-to-all"), say(1.5, 50, "and back");
  say(1, top - 8, "expert 0, on rank 0"), say(1, top + line + second - 8, "expert 1, on rank 1");
  for (int t = 0; t < 4; ++t) {
    const int below = t / 2;
    const double home = top + t % 2 * line + below * second,
                 there = top + double(e.row[t]) * line + double(e.expert[t]) * (line + second);
    const double y[] = {home, there, home};
    for (int column = 0; column < 3; ++column) {
      const double x = left + column * apart;
      text += svg_rectangle(x, y[column], w, h, colour(t / 2)) +
              svg_text(x + w / 2, y[column] + 22, format("{} {}", column < 2 ? "token" : "y", t),
                       format(" style=\"fill:{}\"", ink(t / 2)));
      if (column < 2)
        text += format("<path class=\"arrow\" d=\"M{:g} {:g}L{:g} {:g}\" fill=\"none\"/>\n", x + w + 3,
                       y[column] + h / 2, x + apart - 3, y[column + 1] + h / 2);
    }
  }
  return text + "</svg>\n";
}

/// Counts, and the largest of them over their mean.
inline std::vector<std::string> shares(const std::string& of, const std::vector<std::int64_t>& counts) {
  const double all = std::max(1.0, double(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})));
  return {of, join(counts, " "),
          format("{:.2f}", double(std::ranges::max(counts)) * double(counts.size()) / all)};
}

/// How many rows each rank and each expert got; and what the auxiliary loss would be, and what a capacity
/// would drop, if the same tokens were cut over other numbers of ranks.
inline std::string load(const Choices& choices) {
  const Range all{0, choices.c.tokens}, experts{0, choices.c.experts};
  Config full = choices.c;
  if (full.capacity == 0) full.capacity = 1;
  Cells rows = {{"The same tokens, cut over"},
                {"  aux, shares of all ranks' tokens"},
                {"  aux, shares of a rank's own tokens"},
                {format("  choices over --capacity {:g}", full.capacity)}};
  for (const int parts : {1, 2, 4, 8}) {
    rows[0].push_back(format("{} rank{}", parts, parts > 1 ? "s" : ""));
    rows[1].push_back(number(choices.aux(1))), rows[2].push_back(number(choices.aux(parts)));
    rows[3].push_back(
        format("{}", full.tokens * full.top_k - Choices(choices.p, full, parts).count(all, experts)));
  }
  return table({{"Load", "rows", "max/mean"},
                shares("  of each rank", choices.of_ranks()),
                shares("  of each expert", choices.of_experts())},
               "lll", 2) +
         table(rows, "lrrrr", 2);
}

}  // namespace tessera::experts
