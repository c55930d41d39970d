// The picture of a timeline, as text and as SVG.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "06_pipeline/simulate.hpp"
#include "report/picture.hpp"

namespace tessera::pipeline {

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

/// One line for each stage, or for each of its chunks: s0.1 is the first chunk of stage 0, and blank while
/// the stage works in another one. A character is one `unit` of time, or more where the line would not fit
/// into 100 columns; if `unit` is 0, the line is as long as fits. It shows what the stage does in the middle
/// of that time. The last column counts the idle characters.
inline std::string draw(const Timeline& timeline, const std::string& name, double unit) {
  const int chunks = timeline.chunks();
  const auto label = [&](std::size_t stage, int chunk) {
    return chunks == 1 ? format(" s{}", stage) : format(" s{}.{}", stage, chunk + 1);
  };
  const std::size_t margin = label(timeline.stages.size() - 1, 0).size() + 1;
  const double begin = timeline.begin(), makespan = timeline.makespan(), room = 100 - double(margin + 11);
  const bool fits = unit > 0 && std::round(makespan / unit) <= room;
  const double scale = fits ? unit : makespan / room;
  const std::size_t cells = std::max(1.0, std::round(makespan / scale));
  std::string title = name;
  if (!fits && unit > 0) title += format(" ({:g} units a character)", std::round(scale / unit * 100) / 100);
  std::string out = format("{:<{}}{:>9}\n", title, margin + cells + 2, "idle");
  for (std::size_t stage = 0; stage < timeline.stages.size(); ++stage) {
    const auto& steps = timeline.stages[stage];
    std::vector<std::string> lines(chunks, std::string(cells, ' '));
    int idle = 0;
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const double middle = begin + (cell + 0.5) * scale;
      const auto step = std::ranges::find_if(steps, [&](const Step& one) {
        return computes(one.op) && one.begin <= middle && middle < one.end;
      });
      idle += step == steps.end();
      if (step == steps.end())
        for (std::string& line : lines) line[cell] = '.';
      else
        lines[step->chunk][cell] = symbol(*step);
    }
    const std::string tail = format("{:>9}", format("{}/{}", idle, cells));
    for (int chunk = 0; chunk < chunks; ++chunk)
      out += format("{:<{}}|{}|{}\n", label(stage, chunk), margin, lines[chunk], chunk == 0 ? tail : "");
  }
  return out;
}

// Timelines as SVG, one below the other on the same scale: the predicted above the measured. The picture is
// legible at 1200 pixels, on light and on dark pages.

struct Panel {
  std::string name;  // "predicted"
  Timeline timeline;
};

inline std::string percent(double share) { return format("{:.1f}%", 100 * share); }

namespace svg_detail {

constexpr double left = 66, width = 1200, right = 26, lane = 30, gap = 8;
constexpr const char* start = " text-anchor=\"start\"";

/// One computation. Forward in full colour, backward (or dX) light, dW white in a coloured frame.
inline std::string cell(double x, double y, double w, double h, const Step& step) {
  const char* fill = colour(step.microbatch);
  std::string out = svg_rectangle(x, y, w, h, step.op == Op::forward ? fill : "#fff", " class=\"cell\"");
  if (step.op == Op::backward_weight)
    out += svg_rectangle(x + 2, y + 2, std::max(0.0, w - 4), h - 4, "none",
                         format(" stroke=\"{}\" stroke-width=\"3\"", fill));
  else if (step.op != Op::forward)
    out += svg_rectangle(x, y, w, h, fill, " fill-opacity=\".4\"");
  const std::string number = std::to_string(step.microbatch + 1);
  if (w < 8 * number.size()) return out;  // too narrow to be read
  const char* on = step.op == Op::forward ? ink(step.microbatch) : ink(1);
  return out +
         svg_text(x + w / 2, y + h / 2 + 4.5, number, format(" style=\"fill:{}\" font-size=\"13\"", on));
}

/// Ticks at 1, 2 or 5 times a power of ten, at most 15.
inline std::string axis(double y, double end, double scale, const std::string& unit) {
  double tick = std::pow(10, std::floor(std::log10(end / 15)));
  for (const double step : {2.0, 2.5, 2.0})  // 1 -> 2 -> 5 -> 10
    if (end / tick > 15) tick *= step;
  std::string out = format("<path class=\"arrow\" d=\"M{:g} {:g}h{:g}\"/>\n", left, y, end * scale);
  for (int n = 0; n * tick <= end * (1 + 1e-9); ++n) {
    out += format("<path class=\"arrow\" d=\"M{:g} {:g}v5\"/>\n", left + n * tick * scale, y);
    out += svg_text(left + n * tick * scale, y + 18, format("{:g}", n * tick), " font-size=\"12\"");
  }
  return out + svg_text(left, y + 34, "time, " + unit, format("{} font-size=\"12\"", start));
}

inline std::string rows(const Timeline& timeline, double y, double scale) {
  const int chunks = timeline.chunks();
  const double height = lane * chunks, begin = timeline.begin(), makespan = timeline.makespan();
  std::string out;
  for (std::size_t stage = 0; stage < timeline.stages.size(); ++stage, y += height + gap) {
    out += svg_text(gap, y + height / 2 + 5, format("stage {}", stage), start);
    out += svg_rectangle(left, y, makespan * scale, height, "url(#idle)");
    double free = begin;
    const auto name_gap = [&](double until) {  // where there is room for the word
      const double w = (until - free) * scale, middle = left + (free - begin) * scale + w / 2;
      if (w > 80)
        out += svg_rectangle(middle - 28, y + height / 2 - 10, 56, 20, "none", " class=\"page\"") +
               svg_text(middle, y + height / 2 + 5, "bubble");
    };
    for (const Step& step : timeline.stages[stage]) {
      if (!computes(step.op)) continue;
      name_gap(step.begin);
      free = step.end;
      const double x = left + (step.begin - begin) * scale, w = (step.end - step.begin) * scale;
      if (chunks > 1) out += svg_rectangle(x, y, w + .5, height, "none", " class=\"page\"");
      out += cell(x, y + lane * step.chunk, w, lane, step);
    }
    name_gap(begin + makespan);
  }
  return out;
}

inline std::string key(double y, const Timeline& timeline) {
  std::vector<std::pair<Op, std::string>> entries = {{Op::forward, "forward of microbatch 1"}};
  if (timeline.split())
    entries.insert(entries.end(), {{Op::backward_input, "its dX"}, {Op::backward_weight, "its dW"}});
  else
    entries.push_back({Op::backward, "its backward"});
  std::string out;
  double x = left;
  for (const auto& [op, words] : entries) {
    out += cell(x, y, 28, 24, {{op}, 0, 1}) + svg_text(x + 36, y + 17, words, start);
    x += 54 + 8 * words.size();
  }
  out += svg_rectangle(x, y, 28, 24, "url(#idle)") + svg_text(x + 36, y + 17, "idle: the bubble", start);
  if (timeline.chunks() > 1)
    out += svg_text(x + 180, y + 17, "a lane a chunk, the stage's first on top", start);
  return out;
}

}  // namespace svg_detail

/// The panels as one SVG. `subject` is "1f1b, 4 stages, 8 microbatches"; `unit` is the unit of all their
/// times.
inline std::string picture(const std::string& subject, const std::vector<Panel>& panels,
                           const std::string& unit) {
  using namespace svg_detail;
  const auto rows_height = [](const Timeline& t) { return t.stages.size() * (lane * t.chunks() + gap); };
  double longest = 0, height = 44;
  std::vector<std::string> bubbles;
  for (const auto& [name, timeline] : panels) {
    longest = std::max(longest, timeline.makespan());
    height += 26 + rows_height(timeline) + 56;
    bubbles.push_back(percent(timeline.bubble()) + " " + name);
  }
  const std::string title = subject + ": bubble " + join(bubbles);
  const double scale = (width - left - right) / longest;
  std::string out =
      svg_open(width, height + 40,
               title + ". A row is a stage, a colour and number a microbatch; hatched time is idle.",
               ".cell{stroke:#808080}.idle{stroke:#808080;stroke-width:2}");
  out +=
      "<defs><pattern id=\"idle\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" "
      "patternTransform=\"rotate(45)\"><path d=\"M0 0v8\" class=\"idle\"/></pattern></defs>\n";
  out += svg_text(gap, 26, title, format("{} font-size=\"18\" font-weight=\"bold\"", start));
  double y = 44;
  for (const auto& [name, timeline] : panels) {
    out +=
        svg_text(left, y + 14, format("{}: {} of the run is idle", name, percent(timeline.bubble())), start);
    out += rows(timeline, y + 26, scale);
    y += 26 + rows_height(timeline);
    out += axis(y, timeline.makespan(), scale, unit);
    y += 56;
  }
  return out + key(y, panels.front().timeline) + "</svg>\n";
}

}  // namespace tessera::pipeline
