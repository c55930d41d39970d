// What lesson 08 shows: which ranks communicate, and both loss curves.
#pragma once

#include <map>
#include <set>

#include "08_three_d/harness/proof.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::three_d {

/// The ranks of each group of an axis, by the axis: "tp", "pp", "dp", "embedding", and what cp and ep add.
using Groups = std::vector<std::vector<std::int64_t>>;
using Grid = std::map<std::string, Groups>;

/// Collective. Every group as its members know it.
inline Grid gather_groups(Communicator& world, const Mesh& mesh) {
  const CheckScope scope(world);
  Grid grid;
  for (const auto& [name, group] : mesh.groups()) {
    if (mesh.sizes.cp == 1 && name.ends_with("cp")) continue;
    if (mesh.sizes.ep == 1 && (name == "ep" || name == "expert_dp")) continue;
    const Tensor mine = Tensor::of(group ? 1 : 0, 1, std::vector<double>(group ? 1 : 0, world.rank()));
    const Tensor members = group ? group->all_gather(mine, 0) : mine;
    std::set<std::vector<std::int64_t>> groups;  // each group once, in order
    for (const Tensor& one : gather_to_first(world, members)) {
      const auto values = one.values();
      if (!values.empty()) groups.emplace(values.begin(), values.end());
    }
    grid[name] = {groups.begin(), groups.end()};
  }
  return grid;
}

inline std::string by_hand(const ParallelSizes& s) {
  return format(
      "  rank = tp index + tp ({}dp index + dp stage{}): neighbours in tp are neighbours in the machine.\n",
      s.cp > 1 ? "cp index + cp (" : "", s.cp > 1 ? ")" : "");
}

/// A line for each stage, a column for each replica: the ranks of a tp group stand together.
inline std::string text(const Grid& grid, const ParallelSizes& s) {
  Cells rows = {{"Ranks"}};
  for (int d = 0; d < s.dp; ++d) rows[0].push_back(format("replica {}", d));
  auto group = grid.at("tp").begin();
  for (int p = 0; p < s.pp; ++p) {
    rows.push_back({format("  stage {}", p)});
    for (int d = 0; d < s.dp; ++d) {
      std::vector<std::string> cell;
      for (int c = 0; c < s.cp; ++c, ++group) cell.push_back("[" + join(*group, " ") + "]");
      rows.back().push_back(join(cell, " "));
    }
  }
  std::string text = table(rows, "l" + std::string(s.dp, 'l'), 2);
  for (const auto& [axis, what] : {std::pair{"tp", "columns, heads"},
                                   {"cp", "tokens"},
                                   {"pp", "layers"},
                                   {"dp", "the batch"},
                                   {"dp_cp", "gradients"},
                                   {"ep", "experts"},
                                   {"expert_dp", "copies"}}) {
    if (!grid.contains(axis)) continue;
    std::vector<std::string> words;
    for (const auto& ranks : grid.at(axis)) words.push_back("{" + join(ranks, ",") + "}");
    text += format("  {:<27} {}\n", format("{} groups ({}):", axis, what), join(words, " "));
  }
  return text;
}

/// Both curves over the steps, one character a column: * cut, o unsplit, # where they fall together.
inline std::string plot(const std::vector<double>& cut, const std::vector<double>& whole) {
  constexpr std::size_t height = 10, most_columns = 64;
  const std::size_t steps = cut.size(), columns = std::min(steps, most_columns);
  if (steps < 2) return "";
  const double low = std::ranges::min(whole), high = std::ranges::max(whole);
  std::vector<std::string> lines(height, std::string(columns, ' '));
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t step = c * (steps - 1) / std::max<std::size_t>(columns - 1, 1);
    const auto row = [&](double loss) {
      const double place = std::clamp((high - loss) / std::max(high - low, 1e-9), 0.0, 1.0);
      return std::lround(place * (height - 1));
    };
    lines[row(whole[step])][c] = 'o';
    char& mark = lines[row(cut[step])][c];
    mark = mark == 'o' ? '#' : '*';
  }
  std::string out = "  loss over the steps: * cut, o unsplit, # both\n";
  for (std::size_t i = 0; i < height; ++i)
    out += format("{:>8} |{}\n", i == 0 ? number(high) : i == height - 1 ? number(low) : "", lines[i]);
  return out + "          1" + std::string(columns > 8 ? columns - 6 : 1, ' ') + std::to_string(steps) + "\n";
}

/// Both curves as SVG.
inline std::string drawing(const Compared& t, const ParallelSizes& sizes) {
  constexpr double left = 70, top = 50, width = 700, height = 300;
  const std::vector<double>&cut = t.run.losses, &whole = t.reference.losses;
  std::vector<double> both = cut;
  both.insert(both.end(), whole.begin(), whole.end());
  const double low = std::ranges::min(both), high = std::ranges::max(both);
  const double steps = std::max<double>(1, cut.size() - 1);
  const auto curve = [&](const std::vector<double>& losses, const std::string& style) {
    std::string points;
    for (std::size_t i = 0; i < losses.size(); ++i)
      points += format("{:g},{:g} ", left + width * i / steps,
                       top + height * (high - losses[i]) / std::max(high - low, 1e-9));
    return format("<polyline points=\"{}\" fill=\"none\" {}/>\n", points, style);
  };
  const std::string title = format("tp {}{} x pp {} x dp {}", sizes.tp,
                                   sizes.cp > 1 ? format(" x cp {}", sizes.cp) : "", sizes.pp, sizes.dp),
                    blue = "stroke=\"#3b78c2\" stroke-width=\"7\" stroke-opacity=\".5\"",
                    red = "stroke=\"#c0392b\" stroke-width=\"2\"", start = " text-anchor=\"start\"",
                    end = " text-anchor=\"end\"";
  return svg_open(800, 410, title + ": the loss of the cut model and of the unsplit one over the steps") +
         svg_text(left, 28, title, start) + curve(whole, blue) + curve(cut, red) +
         format("<path class=\"arrow\" d=\"M{:g} {:g}v{:g}h{:g}\" fill=\"none\"/>\n", left, top, height,
                width) +
         svg_text(left - 6, top + 5, number(high), end) + svg_text(left - 6, top + height, number(low), end) +
         svg_text(left + width, top + height + 22, format("step {}", cut.size()), end) +
         format("<path d=\"M500 70h40\" {}/>\n<path d=\"M500 95h40\" {}/>\n", blue, red) +
         svg_text(550, 75, "unsplit", start) + svg_text(550, 100, "cut", start) + "</svg>\n";
}

/// Bytes as a terminal may show them, ids as numbers.
inline std::string readable(const std::vector<std::uint16_t>& ids, bool bytes) {
  if (!bytes) return join(ids, " ");
  std::string out;
  for (const std::uint16_t id : ids)
    out += id == '\n' || (id >= ' ' && id < 127) ? static_cast<char>(id) : '?';
  return out;
}

/// The rows of each rank's experts in the first step and in the last one, as bars.
inline std::string load(const Compared& t, const Options& options) {
  if (t.after.empty() || (options.stable && options.type() != DType::f64)) return "";
  const double most = std::max(std::ranges::max(t.before), std::ranges::max(t.after));
  Cells rows = {{"Rows of its experts", "first step", "", "last step", ""}};
  std::vector<std::string> last = {"  max/mean"};
  for (const auto& load : {t.before, t.after}) {
    const double all = std::accumulate(load.begin(), load.end(), std::int64_t{0});
    last.insert(last.end(), {"", format("{:.2f}", std::ranges::max(load) * load.size() / all)});
    for (std::size_t rank = 0; rank < load.size(); ++rank) {
      if (rows.size() <= rank + 1) rows.push_back({format("  rank {}", rank)});
      rows[rank + 1].push_back(std::string(std::lround(20 * load[rank] / most), '#'));
      rows[rank + 1].push_back(std::to_string(load[rank]));
    }
  }
  rows.push_back(last);
  return table(rows, "llrlr", 2);
}

/// The results of the run as text.
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
inline void record(Proof& proof, const Config& s, const Grid& grid, const Compared& t) {
  for (const auto& [axis, groups] : grid) proof.record("groups." + axis, groups);
  proof.record("loss", t.run.losses);
  proof.record("baseline_loss", t.reference.losses);
  proof.record("tokens_per_second", t.run.tokens_per_second);
  if (s.eval) {
    proof.record("eval.loss", t.run.loss);
    proof.record("eval.baseline_loss", t.reference.loss);
    proof.record("eval.tokens", whole_sequences(s) * s.seq());
  }
  if (!t.after.empty()) proof.record("load.first_step", t.before), proof.record("load.last_step", t.after);
  if (s.sample > 0) proof.record("sample", std::vector<std::int64_t>(t.run.text.begin(), t.run.text.end()));
}

}  // namespace tessera::three_d
