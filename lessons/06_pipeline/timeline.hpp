// A timeline, predicted or measured, and its picture as text.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "06_pipeline/schedule.hpp"

namespace tessera::pipeline {

/// One instruction on the clock.
struct Step : Instruction {
  double begin = 0, end = 0;
};

inline bool computes(Op op) {
  return op == Op::forward || op == Op::backward || op == Op::backward_input || op == Op::backward_weight;
}

/// The steps of each stage, in order, in one unit of time. A stage is busy while it computes, and idle else.
/// Steps that do not compute (messages) may be there or not.
struct Timeline {
  std::vector<std::vector<Step>> stages;

  /// The largest pick(step) of all computations.
  template <class Pick>
  double largest(const Pick& pick) const {
    double most = -std::numeric_limits<double>::infinity();
    for (const auto& steps : stages)
      for (const Step& step : steps)
        if (computes(step.op)) most = std::max<double>(most, pick(step));
    return most;
  }
  double begin() const {
    return -largest([](const Step& step) { return -step.begin; });
  }
  /// From the first computation's begin to the last one's end.
  double makespan() const {
    return largest([](const Step& step) { return step.end; }) - begin();
  }
  double idle(std::size_t stage) const {
    double idle = makespan();
    for (const Step& step : stages[stage]) idle -= computes(step.op) ? step.end - step.begin : 0;
    return idle;
  }
  /// The idle share of the whole run: 1 - busy / (p makespan).
  double bubble() const {
    double sum = 0;
    for (std::size_t stage = 0; stage < stages.size(); ++stage) sum += idle(stage);
    return sum / (static_cast<double>(stages.size()) * makespan());
  }
  int microbatches() const {
    return static_cast<int>(largest([](const Step& step) { return step.microbatch + 1; }));
  }
  int chunks() const {
    return static_cast<int>(largest([](const Step& step) { return step.chunk + 1; }));
  }
  bool split() const {  // into dX and dW
    return largest([](const Step& step) { return step.op == Op::backward_weight; }) > 0;
  }
};

/// A forward is the last digit of its microbatch's number, its backward or dX the letter, its dW the capital.
inline char symbol(const Step& step) {
  if (step.op == Op::forward) return static_cast<char>('0' + (step.microbatch + 1) % 10);
  return static_cast<char>((step.op == Op::backward_weight ? 'A' : 'a') + step.microbatch % 26);
}

/// "1-8 forward, a-h its backward, . idle"
inline std::string legend(const Timeline& timeline) {
  const int m = timeline.microbatches();
  const auto range = [&](char from) {
    const char to = static_cast<char>(from + std::min(m, 26) - 1);
    return m == 1 ? format("{}", from) : format("{}-{}", from, to);
  };
  std::string line = m == 1 ? "1" : format("1-{}", m);
  line += m < 10 ? " forward, " : " (last digit) forward, ";
  line += timeline.split() ? format("{} its dX, {} its dW", range('a'), range('A'))
                           : range('a') + " its backward";
  return line + ", . idle" + (timeline.chunks() > 1 ? "; a line a chunk" : "");
}

/// What each of `cells` characters of a stage shows: the step that takes most of its time, none where the
/// stage is idle for more than half of it.
inline std::vector<const Step*> sampled(const Timeline& timeline, std::size_t stage, std::size_t cells,
                                        double scale) {
  std::vector<const Step*> shown(cells);
  for (std::size_t cell = 0; cell < cells; ++cell) {
    const double begin = timeline.begin() + static_cast<double>(cell) * scale;
    double busy = 0, most = 0;
    const Step* longest = nullptr;
    for (const Step& step : timeline.stages[stage]) {
      const double inside = std::min(step.end, begin + scale) - std::max(step.begin, begin);
      if (!computes(step.op) || inside <= 0) continue;
      busy += inside;
      if (inside > most) longest = &step;
      most = std::max(most, inside);
    }
    if (busy >= scale / 2) shown[cell] = longest;
  }
  return shown;
}

// begin draw
/// A line a stage, or a chunk of it (s0.1, blank while stage 0 works in another chunk). A character is one
/// `unit` of time, or more where the line would not fit into `columns` (0: as long as fits). The last column
/// counts the idle ones.
inline std::string draw(const Timeline& timeline, const std::string& name, double unit, int columns = 100) {
  const int chunks = timeline.chunks();
  const std::size_t stages = timeline.stages.size(), tail = 9;
  const auto label = [&](std::size_t stage, int chunk) {
    return chunks == 1 ? format(" s{}", stage) : format(" s{}.{}", stage, chunk);
  };
  const std::size_t margin = label(stages - 1, 0).size() + 1;
  const double makespan = timeline.makespan(), room = columns - static_cast<double>(margin + tail + 2);
  const bool fits = unit > 0 && std::round(makespan / unit) <= room;
  const double scale = fits ? unit : makespan / room;
  const auto cells = static_cast<std::size_t>(std::max(1.0, std::round(makespan / scale)));
  const auto right = [&](const std::string& text) {
    return std::string(tail - std::min(tail, text.size()), ' ') + text;
  };
  std::string out = name;
  if (!fits && unit > 0) out += format(" ({} units a character)", std::round(scale / unit * 100) / 100);
  out.resize(std::max(out.size(), margin + cells + 2), ' ');
  out += right("idle") + '\n';
  for (std::size_t stage = 0; stage < stages; ++stage) {
    const auto shown = sampled(timeline, stage, cells, scale);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      std::string line = label(stage, chunk);
      line.resize(margin, ' ');
      line += '|';
      for (const Step* step : shown)
        line += step == nullptr ? '.' : step->chunk == chunk ? symbol(*step) : ' ';
      line += '|';
      const auto idle = std::count(shown.begin(), shown.end(), nullptr);
      out += line + (chunk == 0 ? right(format("{}/{}", idle, cells)) : "") + '\n';
    }
  }
  return out;
}
// end draw

}  // namespace tessera::pipeline
