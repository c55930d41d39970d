// What lesson 06 shows: timelines, bubbles, the table of schedules, and the same for programs.
#pragma once

#include "06_pipeline/harness/proof.hpp"
#include "06_pipeline/harness/timeline.hpp"
#include "report/table.hpp"

namespace tessera::pipeline {

inline std::string name_of(Schedule schedule) {
  return schedule_names[static_cast<std::size_t>(schedule)].second;
}

/// A setup, what it should do and what it did.
struct Run {
  Config setup;
  Measured measured;

  int stages() const { return static_cast<int>(setup.partition.size()) / setup.chunks; }
  /// Unpaced, every stage has its own speed: the prediction takes the measured ones.
  Timeline predicted() const {
    const int all = static_cast<int>(setup.partition.size());
    const double one = setup.pace / setup.chunks;
    const Costs costs = setup.pace > 0                     ? Costs::equal(all, one, one, one)
                        : measured.timeline.stages.empty() ? Costs::equal(all, 1, 1, 1)
                                                           : costs_of(measured.timeline, all);
    return simulate(setup.plan(stages()), costs);
  }
  double unit() const {
    if (setup.pace > 0) return setup.pace / setup.chunks;
    if (measured.timeline.stages.empty()) return 1;
    const Costs costs = costs_of(measured.timeline, static_cast<int>(setup.partition.size()));
    return *std::min_element(costs.forward.begin(), costs.forward.end());
  }
  std::vector<int> in_flight_predicted() const {
    std::vector<int> all;
    for (int r = 0; r < stages(); ++r)
      all.push_back(
          pipeline::in_flight_predicted(setup.schedule, stages(), setup.microbatches, setup.chunks, r));
    return all;
  }
};

inline std::string formula(const Config& s) {
  if (s.schedule == Schedule::zb_h1) return "i/(3m+i)";
  return s.chunks > 1 ? "(p-1)/(vm+p-1)" : "(p-1)/(m+p-1)";
}

template <class Number>
std::string joined(const std::vector<Number>& values) {
  std::string text;
  for (const Number value : values) text += format("{}{}", text.empty() ? "" : " ", value);
  return text;
}

/// Timelines and what they say. `stable`: nothing that is measured in seconds.
inline std::string report(const Run& run, int cores, std::size_t element_bytes, bool stable) {
  const Config& s = run.setup;
  const int p = run.stages();
  const Run equal{s, {}};
  const Timeline predicted = stable ? equal.predicted() : run.predicted();
  std::string out =
      format("{}, {}{}; layers {}; {} microbatches of {} tokens{}{}\n", name_of(s.schedule), p,
             p == 1 ? " stage" : " stages", text(s.partition), s.microbatches, s.model.rows(),
             s.pace > 0 ? format("; a stage's forward paced to {} ms", number(1e3 * s.pace)) : "",
             s.recompute ? "; forwards run again for the backward" : "");
  out += legend(predicted) + "\n" + draw(predicted, "predicted", stable ? equal.unit() : run.unit());
  if (!stable) out += draw(run.measured.timeline, "measured", run.unit());
  const double law = bubble_predicted(s.schedule, p, s.microbatches, s.chunks);
  out += format("bubble {} = {} for equal stages", formula(s), percent(law));
  if (!stable && s.pace == 0) out += format("; from the measured costs {}", percent(predicted.bubble()));
  if (!stable) out += format("; measured {}", percent(run.measured.timeline.bubble()));
  if (s.schedule == Schedule::zb_h1) out += "; i = 2(p-1) - min(m-1, p-1)";
  const std::string stages = p == 1 ? "s0" : format("s0..s{}", p - 1);
  out += format("\nin flight   {}: {}{}   (gpipe: {} everywhere)\n", stages, joined(run.measured.in_flight),
                s.chunks > 1 ? format(" chunks, {} a stage", s.chunks) : "", s.microbatches * s.chunks);
  out += format("activations {}: {} B at most\n", stages, joined(run.measured.activation_bytes));
  if (p > 1)
    out += format("a boundary  of two {}: m times n W = {} forward, and as many back\n",
                  s.chunks > 1 ? "chunks" : "stages",
                  bytes(s.model.rows() * s.model.width() * static_cast<std::int64_t>(element_bytes)));
  if (!stable && s.pace == 0 && p > cores)
    out +=
        format("{} ranks share {} cores: stages wait for a core as well as for each other. Try --pace 5ms\n",
               p, cores);
  return out;
}

inline std::string compare(const std::vector<Run>& runs, const std::vector<std::string>& left_out,
                           bool stable) {
  std::vector<std::vector<std::string>> rows = {
      {"Schedule", "bubble", "predicted", "measured", "in flight s0..", "most activations", "sent"}};
  for (const Run& run : runs) {
    const Config& s = run.setup;
    const auto most =
        *std::max_element(run.measured.activation_bytes.begin(), run.measured.activation_bytes.end());
    rows.push_back({"  " + name_of(s.schedule) + (s.chunks > 1 ? format(" v={}", s.chunks) : ""), formula(s),
                    percent(stable ? bubble_predicted(s.schedule, run.stages(), s.microbatches, s.chunks)
                                   : run.predicted().bubble()),
                    stable ? "" : percent(run.measured.timeline.bubble()), joined(run.measured.in_flight),
                    bytes(most),
                    format("{} messages", 2 * s.microbatches * (static_cast<int>(s.partition.size()) - 1))});
  }
  if (stable)  // without what was measured
    for (auto& row : rows) row.erase(row.begin() + 3);
  std::string out = table(rows, stable ? "llrlrr" : "llrrlrr", 0);
  for (const std::string& why : left_out) out += "  " + why + "\n";
  return out;
}

inline std::string drawing(const Run& run, bool stable) {
  std::vector<Panel> panels = {{"predicted", stable ? Run{run.setup, {}}.predicted() : run.predicted()}};
  if (!stable) panels.push_back({"measured", run.measured.timeline});
  const bool seconds = run.setup.pace > 0 || !stable;
  if (seconds)  // in milliseconds
    for (Panel& panel : panels)
      for (auto& steps : panel.timeline.stages)
        for (Step& step : steps) step.begin *= 1e3, step.end *= 1e3;
  return picture(format("{}, {} stages, {} microbatches", name_of(run.setup.schedule), run.stages(),
                        run.setup.microbatches),
                 panels, seconds ? "ms" : "in forwards of a stage");
}

/// The lesson's own keys of the JSON.
inline void record(Proof& proof, const Run& run) {
  const Config& s = run.setup;
  const auto list = [](const auto& values) {
    return std::vector<std::int64_t>(values.begin(), values.end());
  };
  proof.record("pipeline.schedule", name_of(s.schedule));
  proof.record("pipeline.stages", run.stages());
  proof.record("pipeline.microbatches", s.microbatches);
  proof.record("pipeline.chunks", s.chunks);
  proof.record("pipeline.partition", list(s.partition));
  proof.record("pipeline.bubble_predicted", run.predicted().bubble());
  proof.record("pipeline.bubble_measured", run.measured.timeline.bubble());
  proof.record("pipeline.in_flight", list(run.measured.in_flight));
  proof.record("pipeline.in_flight_predicted", list(run.in_flight_predicted()));
}

}  // namespace tessera::pipeline
