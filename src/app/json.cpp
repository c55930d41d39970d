// What programs read about a run.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app/screen.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

using Json = nlohmann::ordered_json;

/// An object. `keys` has a word for each value, in the same order.
template <class... Values>
Json object(const char* keys, const Values&... values) {
  Json json = Json::object();
  std::istringstream words(keys);
  std::string key;
  ((words >> key, json[key] = values), ...);
  return json;
}

/// The bars of a rank, so that they nest: a viewer drops a bar that lies across the end of another. Such a
/// bar becomes "overlapped", unless it lies across by less than the clocks of host and device differ.
std::vector<Span> nested(std::vector<Span> spans) {
  constexpr double slack = 2e-6;
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::pair(a.begin, -a.end) < std::pair(b.begin, -b.end);
  });
  std::vector<double> around;  // the ends of the bars around this one
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

std::string to_json(const RunReport& report) {
  const Options& o = report.options;
  const Outcome& last = report.tables();
  Json json =
      object("lesson ranks device transport dtype seed", report.text.number, report.choice.options.ranks,
             name(report.choice.options.device), name(report.choice.options.transport), o.dtype, o.seed);
  json["config"] = Json::object();
  for (const auto& [flag, text, is_number] : report.flags->values())
    json["config"][flag] = !is_number                                      ? Json(text)
                           : text.find_first_of(".e") == std::string::npos ? Json(std::stoll(text))
                                                                           : Json(std::stod(text));
  for (const char* list : {"checks", "communication", "memory"}) json[list] = Json::array();
  for (const Outcome& outcome : report.outcomes)
    for (const Check& c : outcome.checks)
      json["checks"].push_back(object("identity tier error bound baseline_error ok", c.identity, c.tier,
                                      c.error, c.bound, c.baseline_error, c.ok));
  for (const TrafficRow& row : last.traffic)
    json["communication"].push_back(
        object("phase group op calls payload_bytes wire_bytes predicted_wire_bytes formula counted ok",
               row.phase, row.group, row.op, row.calls, row.payload, row.wire, row.predicted, row.formula,
               row.counted, row.ok));
  const char* const memory = "rank kind bytes predicted_bytes";
  for (const MemoryRow& row : last.memory)
    for (std::size_t r = 0; r < row.measured.size(); ++r)
      json["memory"].push_back(object(memory, r, name(row.kind), row.measured[r], row.predicted[r]));
  for (std::size_t r = 0; r < last.peak.size(); ++r)
    json["memory"].push_back(object(memory, r, "peak", last.peak[r], nullptr));
  json["timings"] = {{"total_seconds", report.seconds}};
  if (!last.spans.empty())
    for (const Span& span : last.spans[0])
      if (span.category == "phase") {
        const std::string key = span.name + "_seconds";
        json["timings"][key] = json["timings"].value(key, 0.0) + span.end - span.begin;
      }
  for (const auto& [key, value] : last.extra) {
    std::string path = "/" + key;
    std::replace(path.begin(), path.end(), '.', '/');
    json[Json::json_pointer(path)] = std::visit([](const auto& one) { return Json(one); }, value);
  }
  json["ok"] = report.ok();
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";  // a file's name may hold any bytes
}

std::string to_trace(const RunReport& report) {
  Json events = Json::array();
  const auto& spans = report.tables().spans;
  for (std::size_t r = 0; r < spans.size(); ++r) {
    const auto add = [&](const std::string& name, const char* kind, const Json& more) {
      events.push_back(object("name ph pid tid", name, kind, 0, r));
      events.back().update(more);
    };
    add("thread_name", "M", {{"args", {{"name", format("rank {}", r)}}}});
    const std::vector<Span> bars = nested(spans[r]);
    for (const Span& span : bars) {
      const double begin = 1e6 * span.begin, end = 1e6 * span.end;  // in microseconds
      if (span.category == "overlapped") {                          // drawn in a row of its own
        const std::string id = format("{}.{}", r, &span - bars.data()),
                          name = format("rank {}: {}", r, span.name);
        add(name, "b", object("cat id ts", span.category, id, begin));
        add(name, "e", object("cat id ts", span.category, id, end));
      } else {
        add(span.name, "X", object("cat ts dur", span.category, begin, end - begin));
      }
    }
    for (const Span& span : spans[r])
      if (const auto colon = span.flow.find(':'); colon != std::string::npos) {  // an arrow between two ranks
        const bool out = span.flow.starts_with("out");
        add("message", out ? "s" : "f",
            object("cat bp id ts", "message", "e", span.flow.substr(colon + 1),
                   1e6 * (out ? span.begin : span.end)));
      }
  }
  return Json{{"traceEvents", events}}.dump() + "\n";
}

}  // namespace tessera
