// What lesson 08 shows: who talks to whom, and both loss curves.
#pragma once

#include "08_three_d/harness/proof.hpp"
#include "report/table.hpp"

namespace tessera::three_d {

/// The ranks of each group of an axis, by the mesh's own rule: filled from the communicators in main.
using Groups = std::vector<std::vector<std::int64_t>>;
struct Grid {
  Groups tp, pp, dp;
};

/// Collective. Every group as its members know it.
inline Grid gather_groups(Communicator& world, const ParallelSizes& sizes) {
  const Phase phase = world.phase("check");
  const MemoryScope scope(MemoryKind::check);
  const Mesh mesh(world, sizes, "grid-");
  Grid grid;
  for (const auto& [group, groups] :
       {std::pair{mesh.tp.get(), &grid.tp}, {mesh.pp.get(), &grid.pp}, {mesh.dp.get(), &grid.dp}}) {
    const auto members = group->all_gather(Tensor::of(1, 1, {static_cast<double>(world.rank())}), 0);
    for (const Tensor& one : gather_to_first(world, members)) {
      const auto values = one.values();
      groups->emplace_back(values.begin(), values.end());
    }
    std::sort(groups->begin(), groups->end());
    groups->erase(std::unique(groups->begin(), groups->end()), groups->end());
  }
  return grid;
}

/// A line a stage and replica: the ranks of a tp group stand together.
inline std::string text(const Grid& grid, const ParallelSizes& s) {
  std::vector<std::vector<std::string>> rows = {{"Ranks"}};
  for (int d = 0; d < s.dp; ++d) rows[0].push_back(format("replica {}", d));
  for (int p = 0; p < s.pp; ++p) {
    rows.push_back({format("  stage {}", p)});
    for (int d = 0; d < s.dp; ++d) {
      std::string cell;
      const auto group =
          static_cast<std::size_t>(p) * static_cast<std::size_t>(s.dp) + static_cast<std::size_t>(d);
      for (const std::int64_t rank : grid.tp.at(group)) cell += format("{}{}", cell.empty() ? "" : " ", rank);
      rows.back().push_back("[" + cell + "]");
    }
  }
  const auto list = [](const Groups& groups) {
    std::string out;
    for (const auto& group : groups) {
      out += out.empty() ? "{" : " {";
      for (std::size_t i = 0; i < group.size(); ++i) out += format("{}{}", i == 0 ? "" : ",", group[i]);
      out += "}";
    }
    return out;
  };
  return table(rows, "l" + std::string(static_cast<std::size_t>(s.dp), 'l'), 2) +
         "  tp groups (columns, heads): " + list(grid.tp) +
         "\n  pp groups (layers):         " + list(grid.pp) +
         "\n  dp groups (the batch):      " + list(grid.dp) + "\n";
}

/// Both curves over the steps, one character a column: * cut, o unsplit, # where they fall together.
inline std::string plot(const std::vector<double>& cut, const std::vector<double>& whole) {
  constexpr std::size_t height = 10, most_columns = 64;
  const std::size_t steps = cut.size(), columns = std::min(steps, most_columns);
  if (steps < 2) return "";
  const double low = *std::min_element(whole.begin(), whole.end());
  const double high = *std::max_element(whole.begin(), whole.end()), range = std::max(high - low, 1e-9);
  std::vector<std::string> lines(height, std::string(columns, ' '));
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t step = c * (steps - 1) / std::max<std::size_t>(columns - 1, 1);
    const auto row = [&](double loss) {
      const double place = std::clamp((high - loss) / range, 0.0, 1.0);
      return static_cast<std::size_t>(std::lround(place * static_cast<double>(height - 1)));
    };
    lines[row(whole[step])][c] = 'o';
    char& mark = lines[row(cut[step])][c];
    mark = mark == 'o' ? '#' : '*';
  }
  std::string out = "  loss over the steps: * cut, o unsplit, # both\n";
  for (std::size_t i = 0; i < height; ++i) {
    std::string label = i == 0 ? number(high) : i == height - 1 ? number(low) : "";
    label.insert(0, 8 - std::min<std::size_t>(8, label.size()), ' ');
    out += label + " |" + lines[i] + "\n";
  }
  return out + "          1" + std::string(columns > 8 ? columns - 6 : 1, ' ') + std::to_string(steps) + "\n";
}

/// The same as SVG.
inline std::string drawing(const std::vector<double>& cut, const std::vector<double>& whole,
                           const std::string& title) {
  constexpr double left = 70, top = 50, width = 700, height = 300;
  double low = INFINITY, high = -INFINITY;
  for (const auto* losses : {&cut, &whole})
    for (const double loss : *losses) low = std::min(low, loss), high = std::max(high, loss);
  const auto x = [&](std::size_t i) {
    return left + width * static_cast<double>(i) / std::max<double>(1, static_cast<double>(cut.size() - 1));
  };
  const auto y = [&](double loss) { return top + height * (high - loss) / std::max(high - low, 1e-9); };
  const auto line = [&](const std::vector<double>& losses, const char* style) {
    std::string points;
    for (std::size_t i = 0; i < losses.size(); ++i) points += format("{:g},{:g} ", x(i), y(losses[i]));
    return format("<polyline points=\"{}\" fill=\"none\" {}/>\n", points, style);
  };
  const auto say = [](double at, double down, const std::string& words, const char* more = "") {
    return format("<text x=\"{:g}\" y=\"{:g}\" font-size=\"15\" {}>{}</text>\n", at, down, more, words);
  };
  const char* blue = "stroke=\"#3b78c2\" stroke-width=\"7\" stroke-opacity=\".5\"";
  const char* red = "stroke=\"#c0392b\" stroke-width=\"2\"";
  const std::string axes =
      format("<path d=\"M{:g} {:g}v{:g}h{:g}\" fill=\"none\" stroke=\"#555\"/>\n", left, top, height, width) +
      say(left - 6, top + 5, number(high), "text-anchor=\"end\"") +
      say(left - 6, top + height, number(low), "text-anchor=\"end\"") +
      say(left + width, top + height + 22, format("step {}", cut.size()), "text-anchor=\"end\"");
  const std::string legend = format("<path d=\"M500 70h40\" {}/>", blue) + say(550, 75, "unsplit") +
                             format("<path d=\"M500 95h40\" {}/>", red) + say(550, 100, "cut");
  return format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 410\" role=\"img\" "
      "font-family=\"sans-serif\"><title>{}: the loss of the cut model and of the unsplit one over the steps"
      "</title>\n<rect width=\"800\" height=\"410\" fill=\"#fff\"/>\n{}{}{}{}{}</svg>\n",
      title, say(left, 28, title), line(whole, blue), line(cut, red), axes, legend);
}

/// Bytes as a terminal may show them, ids as numbers.
inline std::string readable(const std::vector<std::uint16_t>& ids, bool bytes) {
  std::string out;
  for (const std::uint16_t id : ids)
    if (!bytes)
      out += format("{}{}", out.empty() ? "" : " ", id);
    else if (id == '\n' || (id >= ' ' && id < 127))
      out += static_cast<char>(id);
    else
      out += "?";
  return out;
}

/// What came out, for people.
inline std::string results(const Config& s, const Compared& t, bool stable) {
  std::string out;
  const std::int64_t all = whole_sequences(s);
  if (s.eval)
    out += format("\n  Loss {}, unsplit {}: the mean over {} tokens, {} sequences of {}; perplexity {}\n",
                  number(t.run.loss), number(t.reference.loss), all * s.seq(), all, s.seq(),
                  number(std::exp(t.run.loss)));
  if (!stable && !t.run.losses.empty())
    out +=
        format("\n{}  loss {} to {} in {} steps, {} tokens a second\n",
               plot(t.run.losses, t.reference.losses), number(t.run.losses.front()),
               number(t.run.losses.back()), t.run.losses.size(), number(std::round(t.run.tokens_per_second)));
  if (s.weights && s.text.bytes && s.training.model.vocabulary != 256)
    out +=
        "  The bytes of a text are not GPT-2's tokens: --tokens FILE reads a text that was cut into them.\n";
  if (t.run.text.empty() || (stable && !s.eval)) return out;
  const auto apart = std::mismatch(t.run.text.begin(), t.run.text.end(), t.reference.text.begin()).first -
                     t.run.text.begin();
  out +=
      format("\n  {} tokens, temperature {:g}, after the text's first; the unsplit model {}:\n", s.sample,
             s.temperature,
             apart == s.sample + 1 ? "writes the same" : format("goes its own way from token {} on", apart));
  return out + readable(t.run.text, s.text.bytes) + "\n";
}

/// The lesson's own keys of the JSON.
inline void record(Proof& proof, const Config& s, const Compared& t) {
  proof.record("loss", t.run.losses);
  proof.record("baseline_loss", t.reference.losses);
  proof.record("tokens_per_second", t.run.tokens_per_second);
  if (s.eval) {
    proof.record("eval.loss", t.run.loss);
    proof.record("eval.baseline_loss", t.reference.loss);
    proof.record("eval.tokens", whole_sequences(s) * s.seq());
  }
  if (s.sample > 0) proof.record("sample", std::vector<std::int64_t>(t.run.text.begin(), t.run.text.end()));
}

}  // namespace tessera::three_d
