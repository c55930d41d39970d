// ./tessera plan: answers on the screen, as JSON, and as a picture.
#pragma once

#include <iostream>

#include "14_plan/harness/published.hpp"
#include "14_plan/harness/question.hpp"
#include "14_plan/harness/this_machine.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"
#include "tensor/file.hpp"

namespace tessera::plan {

// On the screen: the best cuts, the best one in detail, and why the others lose.

inline std::string gib_text(double bytes) { return format("{:.1f} GiB", bytes / gib); }
inline std::string seconds_text(double s) {
  return s < 1 ? format("{:.3g} ms", 1e3 * s) : format("{:.3g} s", s);
}
inline std::string share(double part, double whole) { return format("{:.0f}%", 100 * part / whole); }

inline std::string name_of(std::optional<Recompute> r) { return word_of(recompute_names, r); }

/// The flags of a cut, as one would type them.
inline std::string flags_of(const Cut& c) {
  const bool named = c.chunks == 1 && c.sizes.pp > 1;
  return format(
      "--tp {}{} --pp {} --dp {}{} --microbatch {} --chunks {}{} --zero {} --recompute {}{}", c.sizes.tp,
      c.sizes.cp > 1 ? format(" --cp {} --way {}", c.sizes.cp, word_of(gpt::way_names, c.way)) : "",
      c.sizes.pp, c.sizes.dp, c.sizes.ep > 1 ? format(" --ep {}", c.sizes.ep) : "", c.microbatch, c.chunks,
      named ? format(" --schedule {}", word_of(pipeline::schedule_names, c.schedule)) : "", c.zero,
      name_of(c.recompute), c.sizes.tp > 1 && !c.sequence_parallel ? " --no-sequence-parallel" : "");
}

inline double utilisation(const Estimate& e, const Question& asked) {
  return e.flops / (e.seconds() * e.devices * asked.machine.flops);
}
inline double tokens_a_second(const Estimate& e, const Question& asked) {
  return asked.batch * asked.model.seq() / e.seconds();
}
inline double days(const Estimate& e, const Question& asked) {
  return asked.tokens / tokens_a_second(e, asked) / 86400;
}

/// Why a cut does not fit, or is slower than the best one: the part of its time whose share grew most.
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
  Cells rows = {{"tp", "cp", "pp", "dp", "ep", "microbatch", "chunks", "zero", "recompute", "memory", "step",
                 "TFLOP/s", "utilisation", best ? "it loses by" : ""}};
  for (const Estimate& e : cuts) {
    const Cut& c = e.cut;
    rows.push_back(row_of(c.sizes.tp, c.sizes.cp, c.sizes.pp, c.sizes.dp, c.sizes.ep, c.microbatch, c.chunks,
                          c.zero, name_of(c.recompute), gib_text(e.bytes()), seconds_text(e.seconds()),
                          format("{:.0f}", e.flops / e.seconds() / e.devices / 1e12),
                          share(utilisation(e, asked), 1), best ? why_not(e, best, asked) : ""));
  }
  return table(rows, "rrrrrrrrlrrrrl", 2);
}

inline std::string details(const Estimate& e, const Question& asked) {
  Cells memory = {{"Memory of the fullest GPU", "", ""}}, time = {{"Time of a step", "", ""}},
        traffic = {{"A GPU sends in a step", "", "calls", "bytes", "link", "takes"}};
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
  std::string text = format(
      "14 plan: {}, {:.4g} billion weights, on {} GPUs of {}, {} sequences of {} tokens a step\n\n", a.model,
      gpt::elements_of(asked.model) / 1e9, asked.devices, asked.machine.name, asked.batch, asked.model.seq());
  if (answer.best.empty())
    return text + format("No cut fits, of {} that were tried.\n", answer.tried) +
           list_of(answer.losers, nullptr, asked);
  const Estimate& best = answer.best.front();
  text += format("  The best of {} cuts\n", answer.tried) + list_of(answer.best, nullptr, asked);
  text += format("\n  {}\n  {:.0f} tokens a second: {:.3g} tokens take {:.3g} days\n\n", flags_of(best.cut),
                 tokens_a_second(best, asked), asked.tokens, days(best, asked));
  text += details(best, asked);
  if (!answer.losers.empty()) text += "\n  Why not\n" + list_of(answer.losers, &best, asked);
  return text;
}

/// Stacked bars: the memory and the time of each cut, by part.
inline std::string bars(const std::vector<Estimate>& cuts, const Question& asked) {
  constexpr double left = 250, width = 330, gap = 40, height = 22, top = 60;
  const double bottom = top + cuts.size() * (height + 12);
  double slowest = 0, fullest = asked.machine.memory;
  for (const Estimate& e : cuts)
    slowest = std::max(slowest, e.seconds()), fullest = std::max(fullest, e.bytes());
  std::string out =
      svg_open(left + 2 * width + 2 * gap, bottom + 60, "memory and time of the best cuts, by part");
  // Only parts that some cut has, so that each has a colour of its own.
  const auto shown = [&](Parts Estimate::*of, const Parts& parts) {
    Parts kept;
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (std::ranges::any_of(cuts, [&](const Estimate& e) { return (e.*of)[i].second > 0; }))
        kept.push_back(parts[i]);
    return kept;
  };
  const auto stack = [&](double x, double y, const Parts& parts, double all) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const double w = width * parts[i].second / all;
      out += svg_rectangle(x, y, w, height, colour(i));
      x += w;
    }
  };
  const std::string start = " text-anchor=\"start\"", end = " text-anchor=\"end\"";
  out += svg_text(left, 24, format("memory of a GPU, up to {}", gib_text(fullest)), start);
  out += svg_text(left + width + gap, 24, format("time of a step, up to {}", seconds_text(slowest)), start);
  for (std::size_t i = 0; i < cuts.size(); ++i) {
    const Estimate& e = cuts[i];
    const double y = top + i * (height + 12);
    out += svg_text(left - 12, y + 16,
                    format("tp {} pp {} dp {}", e.cut.sizes.tp, e.cut.sizes.pp, e.cut.sizes.dp), end);
    stack(left, y, shown(&Estimate::memory, e.memory), fullest);
    stack(left + width + gap, y, shown(&Estimate::time, e.time), slowest);
  }
  const auto legend = [&](double y, const std::string& of, const Parts& parts) {
    out += svg_text(left - 12, y + 10, of, end);
    double x = left;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      out += svg_rectangle(x, y, 10, 10, colour(i));
      out += svg_text(x + 14, y + 10, parts[i].first, start + " font-size=\"12\"");
      x += 30 + 7 * (parts[i].first.size());
    }
  };
  if (!cuts.empty())
    legend(bottom + 6, "memory", shown(&Estimate::memory, cuts[0].memory)),
        legend(bottom + 28, "time", shown(&Estimate::time, cuts[0].time));
  return out + "</svg>\n";
}

/// {"a": 1, "b": 2}
inline std::string json_of(const Parts& parts) {
  std::vector<std::string> words;
  for (const auto& [name, value] : parts) words.push_back(format("\"{}\": {:.9g}", name, value));
  return "{" + join(words, ", ") + "}";
}

inline std::string json_of(const Estimate& e, const Question& asked) {
  std::vector<std::string> traffic;
  for (const AxisTraffic& one : e.traffic)
    traffic.push_back(format(
        R"({{"axis": "{}", "phase": "{}", "calls": {:.9g}, "bytes": {:.12g}, "crosses_machines": {}, "seconds": {:.9g}}})",
        one.axis, one.phase, one.calls, one.bytes, one.crosses, one.seconds));
  const Cut& c = e.cut;
  return format(
      R"({{"tp": {}, "cp": {}, "pp": {}, "dp": {}, "ep": {}, "microbatch": {}, "microbatches": {}, "chunks": {}, "zero": {}, )"
      R"("recompute": "{}", "sequence_parallel": {}, "fits": {}, "bytes": {:.12g}, "memory": {}, "seconds": {:.9g}, )"
      R"("time": {}, "tflops": {:.6g}, "executed_tflops": {:.6g}, "utilisation": {:.6g}, "tokens_per_second": {:.9g}, )"
      R"("days": {:.6g}, "traffic": [{}]}})",
      c.sizes.tp, c.sizes.cp, c.sizes.pp, c.sizes.dp, c.sizes.ep, c.microbatch, e.microbatches, c.chunks,
      c.zero, name_of(c.recompute), c.sequence_parallel, e.bytes() <= asked.machine.usable(), e.bytes(),
      json_of(e.memory), e.seconds(), json_of(e.time), e.flops / e.seconds() / e.devices / 1e12,
      e.executed / e.seconds() / e.devices / 1e12, utilisation(e, asked), tokens_a_second(e, asked),
      days(e, asked), join(traffic, ", "));
}

inline std::string json_of(const Answer& answer, const Question& asked, const Arguments& a) {
  const auto list = [&](const std::vector<Estimate>& cuts) {
    std::vector<std::string> all;
    for (const Estimate& e : cuts) all.push_back(json_of(e, asked));
    return "[" + join(all, ",\n  ") + "]";
  };
  return format(
      "{{\"model\": \"{}\", \"parameters\": {}, \"machine\": \"{}\", \"gpus\": {}, \"batch\": {}, \"seq\": "
      "{}, "
      "\"tried\": {},\n \"best\": {},\n \"others\": {}}}\n",
      a.model, gpt::elements_of(asked.model), asked.machine.name, asked.devices, asked.batch,
      asked.model.seq(), answer.tried, list(answer.best), list(answer.losers));
}

/// The constants, and what the planner says of each published run.
inline std::string fit_text() {
  const Efficiency best = fit();
  Cells rows = {{"published run", "reached", "planner / reached", ""}};
  for (const Published& one : published)
    rows.push_back(
        {one.name,
         one.reached > 100 ? format("{:.0f} TFLOP/s", one.reached) : format("{:.2f} s", one.reached),
         format("{:.3f}", one.ratio(best)), one.fitted ? "fitted" : ""});
  return format("product {:.3f}, half {:.0f}\n", best.product, best.half) + table(rows, "lrrl", 2);
}

/// ./tessera plan FLAGS. Returns 1 where no cut fits.
inline int answer(int argc, char** argv) {
  Question asked;
  Arguments arguments;
  Flags flags("14 plan: how to cut a model over GPUs, and what each cut costs");
  add_flags(flags, asked, arguments);
  if (!flags.parse(argc, argv)) return 0;
  if (arguments.fit) return std::cout << fit_text(), 0;
  int code = 0;
  flags.advise([&] {
    for (const std::string& path : {arguments.json, arguments.svg})
      if (!path.empty()) check_writable(path);
    const Fixed fixed = apply(flags, asked, arguments);
    if (arguments.machine == "this") measure(asked, {}, asked.devices);
    const Answer found = search(asked, fixed);
    if (found.tried == 0) throw UsageError(found.impossible);
    std::cout << screen(found, asked, arguments);
    if (!arguments.json.empty()) write_file(arguments.json, json_of(found, asked, arguments));
    if (!arguments.svg.empty()) write_file(arguments.svg, bars(found.best, asked));
    code = found.best.empty() ? 1 : 0;
  });
  return code;
}

}  // namespace tessera::plan
