// What people and programs read about a run: the tables on the screen, the JSON, the trace.
#pragma once

#include "app/app.hpp"

namespace tessera {

/// Everything that a finished run has to say.
struct RunReport {
  LessonText text;
  Choice choice;
  Options options;
  Flags* flags = nullptr;         // for config{} in the JSON
  std::vector<Outcome> outcomes;  // by tier, exact first
  double seconds = 0;
  bool ok() const;
  const Outcome& tables() const { return outcomes.back(); }  ///< The run whose bytes and memory are shown.
};

/// The share of a bound that an error has used, as a cell: "12%", "1.5 x", or "over" where it is infinite. A
/// stable cell is the same on every machine.
std::string percent(double used, bool stable);

std::string heading(const RunReport& report);
std::string memory_table(const RunReport& report);
std::string traffic_table(const RunReport& report);
std::string check_table(const RunReport& report, bool colour);
std::string verdict(const RunReport& report, bool colour);
/// A line for the table of ./tessera run, with tabs between its cells: lesson, checks, the worst share of a
/// bound, bytes, seconds, verdict.
std::string summary(const RunReport& report);

/// One object: lesson, ranks, ..., checks, communication, memory, timings, ok.
std::string to_json(const RunReport& report);
/// Chrome trace events, for Perfetto: one row for each rank.
std::string to_trace(const RunReport& report);

}  // namespace tessera
