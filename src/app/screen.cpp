#include "app/screen.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

std::string painted(bool colour, const char* code, const std::string& text) {
  return colour ? format("\033[{}m{}\033[0m", code, text) : text;
}

/// A cell for each rank where there are few ranks, else one cell for all.
std::vector<std::string> by_rank(const std::vector<std::int64_t>& values) {
  std::vector<std::string> cells;
  if (values.size() <= 4) {
    for (const std::int64_t value : values) cells.push_back(bytes(value));
    return cells;
  }
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {*least == *most ? bytes(*least) : format("{} to {}", *least, bytes(*most))};
}

/// "1 check", "2 checks".
std::string counted_noun(std::int64_t count, const std::string& noun) {
  return format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

/// The checks of all tiers, and the largest share of a bound that one of them used.
struct Counts {
  std::int64_t held = 0, all = 0;
  double worst = 0;
};
Counts count_checks(const RunReport& report) {
  Counts count;
  for (const Outcome& outcome : report.outcomes)
    for (const Check& check : outcome.checks) {
      ++count.all, count.held += check.ok;
      if (!(check.used <= count.worst)) count.worst = check.used;
    }
  return count;
}

/// The first checks that failed. Where one result is wrong, all that are computed from it are wrong as well.
std::string faults(const RunReport& report, bool colour) {
  constexpr int most = 12;
  int count = 0;
  std::string text;
  const auto fail = [&](const std::string& what, const std::string& advice) {
    if (++count > most) return;
    text += format("  {} {}\n", painted(colour, "31", "FAIL"), what);
    if (!advice.empty()) text += format("       {}\n", advice);
  };
  for (const Check& shown : report.tables().checks)
    for (const Outcome& outcome : report.outcomes)
      for (const Check& check : outcome.checks)
        if (check.identity == shown.identity && !check.ok) {
          std::string where = check.rank < 0 ? "" : format(" rank {}", check.rank);
          if (!check.scalar) where += format(", element ({}, {})", check.row, check.col);
          fail(format("{} ({}):{} is off by {}, the bound is {}", check.identity, check.tier, where,
                      number(check.error), number(check.bound)),
               check.diagnosis);
        }
  for (const std::string& note : report.tables().notes) fail(note, "");
  if (count > most) text += format("       ... and {} more\n", count - most);
  return text;
}

}  // namespace

std::string percent(double used, bool stable) {
  if (stable) return used <= 1 ? "< 100%" : "over";
  if (!(used <= 1)) return std::isinf(used) ? "over" : number(used) + " x";
  return used > 0 && used < 0.01 ? "< 1%" : format("{}%", std::lround(100 * used));
}

bool RunReport::ok() const {
  return !outcomes.empty() &&
         std::all_of(outcomes.begin(), outcomes.end(), [](const Outcome& o) { return o.ok(); });
}

std::string heading(const RunReport& report) {
  return format("{} {}: {}, {}{}\n{}\n", report.text.number, report.text.title, report.choice.reason,
                report.options.dtype, report.options.math == "tf32" ? ", products in TF32" : "",
                report.text.formula);
}

std::string memory_table(const RunReport& report) {
  const Outcome& outcome = report.tables();
  if (outcome.memory.empty()) return "";
  const std::size_t ranks = outcome.peak.size();
  Cells rows = {{"A rank holds", "whole"}};
  for (std::size_t r = 0; ranks <= 4 && r < ranks; ++r) rows[0].push_back(format("rank{}", r));
  if (ranks > 4) rows[0].push_back("each rank");
  rows[0].push_back("formula for a rank");
  for (const MemoryRow& row : outcome.memory) {
    rows.push_back({"  " + row.label, bytes(row.whole)});
    for (const auto& cell : by_rank(row.measured)) rows.back().push_back(cell);
    rows.back().push_back(row.formula + (row.ok ? "" : "  <- differs"));
  }
  rows.push_back({"  all at their peak", ""});
  for (const auto& cell : by_rank(outcome.peak)) rows.back().push_back(cell);
  return table(rows, "l" + std::string(rows[0].size() - 2, 'r') + "l", 2);
}

std::string traffic_table(const RunReport& report) {
  const Outcome& outcome = report.tables();
  if (outcome.traffic.empty()) return "";
  const bool counted = std::all_of(outcome.traffic.begin(), outcome.traffic.end(),
                                   [](const TrafficRow& row) { return row.counted; });
  Cells rows = {{"The ranks send, all together", "calls", counted ? "counted" : "ring model", "formula", ""}};
  for (const TrafficRow& row : outcome.traffic)
    rows.push_back({format("  {} {} {}", row.phase, row.op, row.label), std::to_string(row.calls),
                    bytes(row.wire), row.formula,
                    row.ok ? ""
                           : format("<- should be {}, {}", counted_noun(row.predicted_calls, "call"),
                                    bytes(row.predicted))});
  return table(rows, "lrrll", 2);
}

std::string check_table(const RunReport& report, bool colour) {
  Cells rows = {{report.text.question}};
  for (const Outcome& outcome : report.outcomes)
    rows[0].push_back(outcome.tier == Tier::exact ? "exact" : report.options.dtype + ": bound used");
  const bool floating =
      report.tables().tier == Tier::floating && !report.options.stable && !report.options.no_baseline;
  if (floating) rows[0].push_back("unsplit " + report.options.dtype + "'s own error");
  // A group shows its worst check. A check may have one tier only.
  const auto worst = [](const Outcome& outcome, const auto& belongs) {
    const Check* found = nullptr;
    for (const Check& check : outcome.checks)
      if (belongs(check) && (found == nullptr || !(check.used <= found->used))) found = &check;
    return found;
  };
  std::set<std::string> groups;
  for (const Check& shown : report.tables().checks) {
    if (!shown.group.empty() && !groups.insert(shown.group).second) continue;
    const auto belongs = [&](const Check& c) {
      return shown.group.empty() ? c.identity == shown.identity : c.group == shown.group;
    };
    const auto& all = report.tables().checks;
    const auto count = std::count_if(all.begin(), all.end(), belongs);
    rows.push_back({"  " + (shown.group.empty() ? shown.identity : format("{} {}", count, shown.group))});
    for (const Outcome& outcome : report.outcomes) {
      const Check* check = worst(outcome, belongs);
      rows.back().push_back(check == nullptr              ? ""
                            : outcome.tier == Tier::exact ? number(check->error)
                                                          : percent(check->used, report.options.stable));
    }
    if (floating) {
      double error = 0;
      for (const Check& check : all) error = belongs(check) ? std::max(error, check.baseline_error) : error;
      rows.back().push_back(error > 0 ? number(error) : "");
    }
  }
  return table(rows, "l" + std::string(rows[0].size() - 1, 'r'), 2) + faults(report, colour);
}

std::string verdict(const RunReport& report, bool colour) {
  const Counts count = count_checks(report);
  std::int64_t wrong_rows = 0;
  for (const auto& row : report.tables().traffic) wrong_rows += !row.ok;
  for (const auto& row : report.tables().memory) wrong_rows += !row.ok;
  std::string text = counted_noun(count.held, "check") + (count.held == 1 ? " holds" : " hold");
  if (count.all > count.held)
    text += ", " + painted(colour, "31", format("{} failed", count.all - count.held));
  if (wrong_rows > 0)
    text += ", " + painted(colour, "31",
                           format("{} of bytes or memory {} from the formula",
                                  counted_noun(wrong_rows, "row"), wrong_rows == 1 ? "differs" : "differ"));
  return format("{}.  Code: {}\n", painted(colour, report.ok() ? "32" : "31", text), report.text.code);
}

std::string summary(const RunReport& report) {
  const Counts count = count_checks(report);
  std::int64_t sent = 0;
  for (const TrafficRow& row : report.tables().traffic) sent += row.wire;
  return format("{} {}\t{} of {}\t{}\t{}\t{:.1f} s\t{}\n", report.text.number, report.text.title, count.held,
                count.all, percent(count.worst, false), bytes(sent), report.seconds,
                report.ok() ? "holds" : "FAILS");
}

}  // namespace tessera
