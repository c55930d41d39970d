#include "app/screen.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

std::string painted(bool colour, const char* code, const std::string& text) {
  return colour ? format("\033[{}m{}\033[0m", code, text) : text;
}

std::string percent(double used, bool stable) {
  if (stable) return used <= 1 ? "< 100%" : "over";
  if (!(used <= 1)) return std::isinf(used) ? "over" : number(used) + " x";
  return used > 0 && used < 0.01 ? "< 1%" : format("{}%", std::lround(100 * used));
}

/// A cell for each rank where there are few, else one for all.
std::vector<std::string> by_rank(const std::vector<std::int64_t>& values) {
  std::vector<std::string> cells;
  if (values.size() <= 4) {
    for (const std::int64_t value : values) cells.push_back(bytes(value));
    return cells;
  }
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {*least == *most ? bytes(*least) : format("{} to {}", *least, bytes(*most))};
}

const Outcome& tables_of(const RunReport& report) { return report.outcomes.back(); }

/// What failed, the first ones: where one thing is wrong, all that follows is.
std::string faults(const RunReport& report, bool colour) {
  constexpr int most = 12;
  int count = 0;
  std::string text;
  const auto fail = [&](const std::string& what, const std::string& advice) {
    if (++count > most) return;
    text += format("  {} {}\n", painted(colour, "31", "FAIL"), what);
    if (!advice.empty()) text += format("       {}\n", advice);
  };
  for (const Check& shown : tables_of(report).checks)
    for (const Outcome& outcome : report.outcomes)
      for (const Check& check : outcome.checks)
        if (check.identity == shown.identity && !check.ok)
          fail(format("{} ({}): rank {}, element ({}, {}) is off by {}, the bound is {}", check.identity,
                      check.tier, check.rank, check.row, check.col, number(check.error), number(check.bound)),
               check.diagnosis);
  for (const std::string& note : tables_of(report).notes) fail(note, "");
  if (count > most) text += format("       ... and {} more\n", count - most);
  return text;
}

}  // namespace

bool RunReport::ok() const {
  return !outcomes.empty() &&
         std::all_of(outcomes.begin(), outcomes.end(), [](const Outcome& o) { return o.ok(); });
}

std::string heading(const RunReport& report) {
  return format("{} {}: {}, {}\n{}\n", report.text.number, report.text.title, report.choice.reason,
                report.options.dtype, report.text.formula);
}

std::string memory_table(const RunReport& report) {
  const Outcome& outcome = tables_of(report);
  if (outcome.memory.empty()) return "";
  const std::size_t ranks = outcome.peak.size();
  std::vector<std::vector<std::string>> rows = {{"A rank holds", "whole"}};
  for (std::size_t r = 0; ranks <= 4 && r < ranks; ++r) rows[0].push_back(format("rank{}", r));
  if (ranks > 4) rows[0].push_back("each rank");
  rows[0].push_back("formula for a rank");
  for (const MemoryRow& row : outcome.memory) {
    rows.push_back({"  " + row.label, bytes(row.whole)});
    for (const auto& cell : by_rank(row.measured)) rows.back().push_back(cell);
    rows.back().push_back(row.formula + (row.ok ? "" : "  <- is not"));
  }
  rows.push_back({"  all at their peak", ""});
  for (const auto& cell : by_rank(outcome.peak)) rows.back().push_back(cell);
  return table(rows, "l" + std::string(rows[0].size() - 2, 'r') + "l", 2);
}

std::string traffic_table(const RunReport& report) {
  const Outcome& outcome = tables_of(report);
  if (outcome.traffic.empty()) return "";
  const bool counted = std::all_of(outcome.traffic.begin(), outcome.traffic.end(),
                                   [](const TrafficRow& row) { return row.counted; });
  std::vector<std::vector<std::string>> rows = {
      {"The ranks send, all together", "calls", counted ? "counted" : "ring model", "formula", ""}};
  for (const TrafficRow& row : outcome.traffic)
    rows.push_back({format("  {} {} {}", row.phase, row.op, row.label), std::to_string(row.calls),
                    bytes(row.wire), row.formula,
                    row.ok
                        ? ""
                        : format("<- should be {}{}{}", row.predicted_calls,
                                 row.predicted_calls == 1 ? " call, " : " calls, ", bytes(row.predicted))});
  return table(rows, "lrrll", 2);
}

std::string check_table(const RunReport& report, bool colour) {
  std::vector<std::vector<std::string>> rows = {{report.text.question}};
  for (const Outcome& outcome : report.outcomes)
    rows[0].push_back(outcome.tier == Tier::exact ? "exact" : report.options.dtype + ": bound used");
  const bool floating =
      tables_of(report).tier == Tier::floating && !report.options.stable && !report.options.no_baseline;
  if (floating) rows[0].push_back("unsplit " + report.options.dtype + "'s own error");
  // Of a group the worst; a check may have one tier only.
  const auto worst = [](const Outcome& outcome, const auto& belongs) {
    const Check* found = nullptr;
    for (const Check& check : outcome.checks)
      if (belongs(check) && (found == nullptr || !(check.used <= found->used))) found = &check;
    return found;
  };
  std::set<std::string> groups;
  for (const Check& shown : tables_of(report).checks) {
    if (!shown.group.empty() && !groups.insert(shown.group).second) continue;
    const auto belongs = [&](const Check& c) {
      return shown.group.empty() ? c.identity == shown.identity : c.group == shown.group;
    };
    const auto& all = tables_of(report).checks;
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
  std::size_t held = 0, failed = 0;
  for (const Outcome& outcome : report.outcomes)
    for (const Check& check : outcome.checks) ++(check.ok ? held : failed);
  std::size_t wrong_rows = 0;
  for (const auto& row : tables_of(report).traffic) wrong_rows += !row.ok;
  for (const auto& row : tables_of(report).memory) wrong_rows += !row.ok;
  std::string text = format("{}{}", held, held == 1 ? " check holds" : " checks hold");
  if (failed > 0) text += format(", {}", painted(colour, "31", format("{} failed", failed)));
  if (wrong_rows > 0)
    text += format(", {}", painted(colour, "31",
                                   format("{}{} of bytes or memory off the formula", wrong_rows,
                                          wrong_rows == 1 ? " row" : " rows")));
  return format("{}.  Code: {}\n", painted(colour, report.ok() ? "32" : "31", text), report.text.code);
}

std::string summary(const RunReport& report) {
  std::size_t held = 0, all = 0;
  double worst = 0;
  for (const Outcome& outcome : report.outcomes)
    for (const Check& check : outcome.checks) {
      ++all, held += check.ok;
      if (!(check.used <= worst)) worst = check.used;
    }
  std::int64_t sent = 0;
  for (const TrafficRow& row : tables_of(report).traffic) sent += row.wire;
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.1f s", report.seconds);
  return format("{} {}\t{} of {}\t{}\t{}\t{}\t{}\n", report.text.number, report.text.title, held, all,
                percent(worst, false), bytes(sent), seconds, report.ok() ? "holds" : "FAILS");
}

std::string to_json(const RunReport& report) {
  using Json = nlohmann::ordered_json;
  const Options& o = report.options;
  Json json = {{"lesson", report.text.number},
               {"ranks", report.choice.options.ranks},
               {"device", name(report.choice.options.device)},
               {"transport", name(report.choice.options.transport)},
               {"dtype", o.dtype},
               {"seed", o.seed}};
  json["config"] = Json::object();
  for (const auto& [flag, text, is_number] : report.flags->values())
    json["config"][flag] = !is_number                                      ? Json(text)
                           : text.find_first_of(".e") == std::string::npos ? Json(std::stoll(text))
                                                                           : Json(std::stod(text));
  json["checks"] = Json::array();
  for (const Outcome& outcome : report.outcomes)
    for (const Check& check : outcome.checks)
      json["checks"].push_back({{"identity", check.identity},
                                {"tier", check.tier},
                                {"error", check.error},
                                {"bound", check.bound},
                                {"baseline_error", check.baseline_error},
                                {"ok", check.ok}});
  json["communication"] = Json::array();
  for (const TrafficRow& row : tables_of(report).traffic)
    json["communication"].push_back({{"phase", row.phase},
                                     {"group", row.group},
                                     {"op", row.op},
                                     {"calls", row.calls},
                                     {"payload_bytes", row.payload},
                                     {"wire_bytes", row.wire},
                                     {"predicted_wire_bytes", row.predicted},
                                     {"formula", row.formula},
                                     {"counted", row.counted},
                                     {"ok", row.ok}});
  json["memory"] = Json::array();
  for (const MemoryRow& row : tables_of(report).memory)
    for (std::size_t r = 0; r < row.measured.size(); ++r)
      json["memory"].push_back({{"rank", r},
                                {"kind", name(row.kind)},
                                {"bytes", row.measured[r]},
                                {"predicted_bytes", row.predicted[r]}});
  for (std::size_t r = 0; r < tables_of(report).peak.size(); ++r)
    json["memory"].push_back(
        {{"rank", r}, {"kind", "peak"}, {"bytes", tables_of(report).peak[r]}, {"predicted_bytes", nullptr}});
  json["timings"] = {{"total_seconds", report.seconds}};
  if (!tables_of(report).spans.empty())
    for (const Span& span : tables_of(report).spans[0])
      if (span.category == "phase") {
        const std::string key = span.name + "_seconds";
        json["timings"][key] = json["timings"].value(key, 0.0) + span.end - span.begin;
      }
  for (const auto& [key, value] : tables_of(report).extra) {
    std::string path = "/" + key;
    std::replace(path.begin(), path.end(), '.', '/');
    json[Json::json_pointer(path)] = std::visit([](const auto& one) { return Json(one); }, value);
  }
  json["ok"] = report.ok();
  return json.dump(2) + "\n";
}

namespace {

/// A rank's bars, made to nest: a viewer drops what lies across another bar's end. That becomes "overlapped",
/// unless it is by less than the clocks of host and device differ.
std::vector<Span> nested(std::vector<Span> spans) {
  constexpr double slack = 2e-6;
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::pair(a.begin, -a.end) < std::pair(b.begin, -b.end);
  });
  std::vector<double> around;  // ends of the bars around this one
  double begin = 0;
  for (Span& span : spans) {
    if (span.category == "overlapped") continue;
    begin = std::max(begin, span.begin);
    for (; !around.empty() && around.back() <= begin + slack; around.pop_back())
      begin = std::max(begin, around.back());
    if (!around.empty() && span.end > around.back() + slack) {
      span.category = "overlapped";
      continue;
    }
    span.begin = begin;
    span.end = std::max(begin, around.empty() ? span.end : std::min(span.end, around.back()));
    around.push_back(span.end);
  }
  return spans;
}

}  // namespace

std::string to_trace(const RunReport& report) {
  using Json = nlohmann::ordered_json;
  Json events = Json::array();
  const auto& spans = tables_of(report).spans;
  for (std::size_t r = 0; r < spans.size(); ++r) {
    events.push_back({{"name", "thread_name"},
                      {"ph", "M"},
                      {"pid", 0},
                      {"tid", r},
                      {"args", {{"name", format("rank {}", r)}}}});
    const std::vector<Span> bars = nested(spans[r]);
    for (const Span& span : bars) {
      if (span.category == "overlapped") {  // a row of its own
        for (const auto& [kind, at] : {std::pair{"b", span.begin}, {"e", span.end}})
          events.push_back({{"name", format("rank {}: {}", r, span.name)},
                            {"cat", span.category},
                            {"ph", kind},
                            {"id", format("{}.{}", r, &span - bars.data())},
                            {"pid", 0},
                            {"tid", r},
                            {"ts", 1e6 * at}});
        continue;
      }
      events.push_back({{"name", span.name},
                        {"cat", span.category},
                        {"ph", "X"},
                        {"pid", 0},
                        {"tid", r},
                        {"ts", 1e6 * span.begin},
                        {"dur", 1e6 * (span.end - span.begin)}});
    }
    for (const Span& span : spans[r])
      if (const auto colon = span.flow.find(':'); colon != std::string::npos) {  // an arrow from rank to rank
        const bool out = span.flow.starts_with("out");
        events.push_back({{"name", "message"},
                          {"cat", "message"},
                          {"ph", out ? "s" : "f"},
                          {"bp", "e"},
                          {"id", span.flow.substr(colon + 1)},
                          {"pid", 0},
                          {"tid", r},
                          {"ts", 1e6 * (out ? span.begin : span.end)}});
      }
  }
  return Json{{"traceEvents", events}}.dump() + "\n";
}

}  // namespace tessera
