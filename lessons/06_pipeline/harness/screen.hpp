// What lesson 06 shows: an example by hand, timelines and their bubbles; and its keys of the JSON.
#pragma once

#include <thread>

#include "06_pipeline/harness/proof.hpp"
#include "06_pipeline/harness/timeline.hpp"
#include "report/table.hpp"

namespace tessera::pipeline {

/// What was asked for, and what was measured. Where the timeline is empty, no figure in seconds is shown.
struct Run {
  Config config;
  Measured measured;

  bool is_timed() const { return !measured.timeline.stages.empty(); }
  /// Without a pace every stage has its own speed: the prediction takes the measured ones.
  Costs costs() const { return costs_of(measured.timeline, config.virtual_stages()); }
  bool takes_own_time() const { return is_timed() && config.pace == 0; }
  Timeline predicted() const {
    return takes_own_time() ? simulate(config.plan(), costs()) : config.predicted();
  }
  double unit() const { return takes_own_time() ? std::ranges::min(costs().forward) : config.tick(); }
};

/// Every line of the text moved to the right.
inline std::string indented(const std::string& text, std::size_t by) {
  std::string out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) out += std::string(by, ' ') + line + '\n';
  return out;
}

/// Says what blocking sends lead to, as the lists alone tell it.
inline std::string warning(const Config& s) {
  try {
    check(s.plan(), s.microbatches, s.chunks);
  } catch (const Error& error) {
    return format(
        "  --blocking: each send is waited for at once. The lists alone say what follows:\n    {}\n"
        "  Each of them sends before it receives, so none of them ever receives. Post the sends, and wait "
        "later.\n",
        error.what());
  }
  return "  --blocking: each send is waited for at once. This schedule survives it: all messages go one way, "
         "then all the other.\n";
}

inline std::string by_hand(const Config& s) {
  const Timeline two = simulate(make_plan(Schedule::gpipe, 2, 2), Costs::equal(2, 1, 1, 1));
  return "  By hand: two stages, two microbatches, a backward as long as two forwards\n" +
         indented(draw(two, "gpipe", 1), 4) +
         "  Stage 1 waits for the first activation, stage 0 for the first gradient: 3 of 9 each.\n" +
         (s.blocking ? warning(s) : "");
}

inline std::string formula(const Config& s) {
  if (s.schedule == Schedule::zb_h1) return "i/(3m+i)";
  return s.chunks > 1 ? "(p-1)/(vm+p-1)" : "(p-1)/(m+p-1)";
}

/// The timelines, and the figures that they give.
inline std::string report(const Run& run, std::int64_t element_bytes) {
  const Config& s = run.config;
  const Measured& found = run.measured;
  const int p = s.stages(), cores = std::thread::hardware_concurrency();
  const Timeline predicted = run.predicted();
  std::string out =
      format("{}, {}{}; layers {}; {} microbatches of {} tokens{}{}\n", word_of(schedule_names, s.schedule),
             p, p == 1 ? " stage" : " stages", join(s.partition, ","), s.microbatches, s.model.rows(),
             s.pace > 0 ? format("; a stage's forward paced to {} ms", number(1e3 * s.pace)) : "",
             s.recompute ? "; forwards run again for the backward" : "");
  out += legend(predicted) + "\n" + draw(predicted, "predicted", run.unit());
  if (run.is_timed()) out += draw(found.timeline, "measured", run.unit());
  out += format("bubble {} = {} for equal stages", formula(s), percent(s.bubble_predicted()));
  if (run.takes_own_time()) out += format("; from the measured costs {}", percent(predicted.bubble()));
  if (run.is_timed()) out += format("; measured {}", percent(found.timeline.bubble()));
  if (s.schedule == Schedule::zb_h1) out += "; i = 2(p-1) - min(m-1, p-1)";
  const std::string stages = p == 1 ? "s0" : format("s0..s{}", p - 1);
  out += format("\nin flight   {}: {}{}   (gpipe: {} everywhere)\n", stages, join(found.in_flight, " "),
                s.chunks > 1 ? format(" chunks, {} a stage", s.chunks) : "", s.microbatches * s.chunks);
  out += format("activations {}: {} B at most\n", stages, join(found.activation_bytes, " "));
  if (p > 1)
    out +=
        format("a boundary  of two {}: m times n W = {} forward, and as many back\n",
               s.chunks > 1 ? "chunks" : "stages", bytes(s.model.rows() * s.model.width() * element_bytes));
  if (run.takes_own_time() && p > cores)
    out +=
        format("{} ranks share {} cores: stages wait for a core as well as for each other. Try --pace 5ms\n",
               p, cores);
  return out;
}

inline std::string drawing(const Run& run) {
  const bool seconds = run.config.pace > 0 || run.is_timed();
  std::vector<Panel> panels = {{"predicted", run.predicted()}};
  if (run.is_timed()) panels.push_back({"measured", run.measured.timeline});
  for (Panel& panel : panels)
    for (auto& steps : panel.timeline.stages)
      for (Step& step : steps)
        if (seconds) step.begin *= 1e3, step.end *= 1e3;  // in milliseconds
  return picture(format("{}, {} stages, {} microbatches", word_of(schedule_names, run.config.schedule),
                        run.config.stages(), run.config.microbatches),
                 panels, seconds ? "ms" : "in forwards of a stage");
}

/// The lesson's own keys of the JSON.
inline void record(Proof& proof, const Run& run) {
  const Config& s = run.config;
  proof.record("pipeline.schedule", word_of(schedule_names, s.schedule));
  proof.record("pipeline.stages", s.stages());
  proof.record("pipeline.microbatches", s.microbatches);
  proof.record("pipeline.chunks", s.chunks);
  proof.record("pipeline.partition", s.partition);
  std::vector<std::vector<std::string>> actions;  // of each stage, in its order
  for (const Instructions& list : s.plan())
    for (actions.emplace_back(); const Instruction& one : list) actions.back().push_back(text(one));
  proof.record("pipeline.actions", actions);
  proof.record("pipeline.bubble_predicted", run.predicted().bubble());
  proof.record("pipeline.bubble_measured", run.measured.timeline.bubble());
  proof.record("pipeline.in_flight", run.measured.in_flight);
  proof.record("pipeline.in_flight_predicted", s.in_flight_predicted());
}

}  // namespace tessera::pipeline
