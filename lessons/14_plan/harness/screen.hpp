// What ./tessera plan shows: the best cuts, the best one in detail, and why the others lose.
#pragma once

#include "14_plan/harness/question.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::plan {

inline std::string gib_text(double bytes) { return format("{:.1f} GiB", bytes / gib); }
inline std::string seconds_text(double s) {
  return s < 1 ? format("{:.3g} ms", 1e3 * s) : format("{:.3g} s", s);
}
inline std::string share(double part, double whole) { return format("{:.0f}%", 100 * part / whole); }

inline const char* name_of(Recompute r) {
  return r == Recompute::none ? "none" : r == Recompute::full ? "full" : "selective";
}

template <class Value>
std::string name_of(const std::vector<std::pair<Value, std::string>>& names, Value value) {
  return std::ranges::find(names, value, &std::pair<Value, std::string>::first)->second;
}

/// The flags of a cut, as one would type them.
inline std::string flags_of(const Cut& c) {
  const bool named = c.chunks == 1 && c.sizes.pp > 1;
  return format(
      "--tp {}{} --pp {} --dp {}{} --microbatch {} --chunks {}{} --zero {} --recompute {}{}", c.sizes.tp,
      c.sizes.cp > 1 ? format(" --cp {} --way {}", c.sizes.cp, name_of(gpt::way_names, c.way)) : "",
      c.sizes.pp, c.sizes.dp, c.sizes.ep > 1 ? format(" --ep {}", c.sizes.ep) : "", c.microbatch, c.chunks,
      named ? format(" --schedule {}", name_of(pipeline::schedule_names, c.schedule)) : "", c.zero,
      name_of(c.recompute), c.sizes.tp > 1 && !c.sequence_parallel ? " --no-sequence-parallel" : "");
}

inline double utilisation(const Estimate& e, const Question& asked) {
  return e.flops / (e.seconds() * e.devices * asked.machine.flops);
}
inline double tokens_a_second(const Estimate& e, const Question& asked) {
  return static_cast<double>(asked.batch * asked.model.seq()) / e.seconds();
}
inline double days(const Estimate& e, const Question& asked) {
  return asked.tokens / tokens_a_second(e, asked) / 86400;
}

/// Why a cut is slower than the best one, or does not fit: the part that it has most of beyond the best
/// one's.
inline std::string why_not(const Estimate& e, const Estimate* best, const Question& asked) {
  if (e.bytes() > asked.machine.usable())
    return format("{} of {:.0f}", gib_text(e.bytes()), asked.machine.usable() / gib);
  if (best == nullptr) return "";
  std::string worst;
  double most = 0;
  for (std::size_t i = 0; i < e.time.size(); ++i) {
    const double more = e.time[i].second / e.seconds() - best->time[i].second / best->seconds();
    if (more > most)
      most = more, worst = format("{} {}", share(e.time[i].second, e.seconds()), e.time[i].first);
  }
  return format("{:.0f}% slower: {}", 100 * (e.seconds() / best->seconds() - 1), worst);
}

inline std::string list_of(const std::vector<Estimate>& cuts, const Estimate* best, const Question& asked) {
  std::vector<std::vector<std::string>> rows = {{"tp", "cp", "pp", "dp", "ep", "microbatch", "chunks", "zero",
                                                 "recompute", "memory", "step", "TFLOP/s", "utilisation",
                                                 best ? "it loses by" : ""}};
  for (const Estimate& e : cuts) {
    const Cut& c = e.cut;
    rows.push_back({std::to_string(c.sizes.tp), std::to_string(c.sizes.cp), std::to_string(c.sizes.pp),
                    std::to_string(c.sizes.dp), std::to_string(c.sizes.ep), std::to_string(c.microbatch),
                    std::to_string(c.chunks), std::to_string(c.zero), name_of(c.recompute),
                    gib_text(e.bytes()), seconds_text(e.seconds()),
                    format("{:.0f}", e.flops / e.seconds() / e.devices / 1e12),
                    share(utilisation(e, asked), 1), best ? why_not(e, best, asked) : ""});
  }
  return table(rows, "rrrrrrrrlrrrrl", 2);
}

inline std::string details(const Estimate& e, const Question& asked) {
  std::vector<std::vector<std::string>> memory = {{"Memory of the fullest GPU", "", ""}},
                                        time = {{"Time of a step", "", ""}},
                                        traffic = {
                                            {"A GPU sends in a step", "", "calls", "bytes", "link", "takes"}};
  for (const auto& [name, bytes] : e.memory)
    memory.push_back({"  " + name, gib_text(bytes), share(bytes, e.bytes())});
  memory.push_back({format("  in all, of {}", gib_text(asked.machine.memory)), gib_text(e.bytes()),
                    share(e.bytes(), asked.machine.memory)});
  for (const auto& [name, seconds] : e.time)
    if (seconds > 1e-6 * e.seconds())
      time.push_back({"  " + name, seconds_text(seconds), share(seconds, e.seconds())});
  time.push_back({"  in all", seconds_text(e.seconds()), ""});
  for (const AxisTraffic& one : e.traffic)
    if (one.bytes > 0)
      traffic.push_back({"  " + one.axis, one.phase, format("{:.0f}", one.calls),
                         format("{:.3f} MB", one.bytes / 1e6), one.crosses ? "between machines" : "inside",
                         seconds_text(one.seconds)});
  return table(memory, "lrr", 2) + "\n" + table(time, "lrr", 2) + "\n" + table(traffic, "llrrlr", 2);
}

inline std::string screen(const Answer& answer, const Question& asked, const Arguments& a) {
  const double p = static_cast<double>(gpt::elements_of(asked.model));
  std::string text =
      format("14 plan: {}, {:.4g} billion weights, on {} GPUs of {}, {} sequences of {} tokens a step\n\n",
             a.model, p / 1e9, asked.devices, asked.machine.name, asked.batch, asked.model.seq());
  if (answer.best.empty()) {
    text += format("No cut fits, of {} that were tried.\n", answer.tried);
    return text + list_of(answer.losers, nullptr, asked);
  }
  const Estimate& best = answer.best.front();
  text += format("  The best of {} cuts\n", answer.tried) + list_of(answer.best, nullptr, asked);
  text += format("\n  {}\n  {:.0f} tokens a second: {:.3g} tokens take {:.3g} days\n\n", flags_of(best.cut),
                 tokens_a_second(best, asked), asked.tokens, days(best, asked));
  text += details(best, asked);
  if (!answer.losers.empty()) text += "\n  Why not\n" + list_of(answer.losers, &best, asked);
  return text;
}

}  // namespace tessera::plan
