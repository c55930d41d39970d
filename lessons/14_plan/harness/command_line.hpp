// ./tessera plan: answers on the screen, as JSON, and as a picture.
#pragma once

#include <iostream>

#include "14_plan/harness/published.hpp"
#include "14_plan/harness/screen.hpp"
#include "14_plan/harness/this_machine.hpp"
#include "tensor/file.hpp"

namespace tessera::plan {

/// Stacked bars: the memory and the time of each cut, by part.
inline std::string bars(const std::vector<Estimate>& cuts, const Question& asked) {
  constexpr double left = 250, width = 330, gap = 40, height = 22, top = 60;
  const double bottom = top + static_cast<double>(cuts.size()) * (height + 12);
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
      out += svg_rectangle(x, y, w, height, colour(static_cast<int>(i)));
      x += w;
    }
  };
  const std::string start = " text-anchor=\"start\"", end = " text-anchor=\"end\"";
  out += svg_text(left, 24, format("memory of a GPU, up to {}", gib_text(fullest)), start);
  out += svg_text(left + width + gap, 24, format("time of a step, up to {}", seconds_text(slowest)), start);
  for (std::size_t i = 0; i < cuts.size(); ++i) {
    const Estimate& e = cuts[i];
    const double y = top + static_cast<double>(i) * (height + 12);
    out += svg_text(left - 12, y + 16,
                    format("tp {} pp {} dp {}", e.cut.sizes.tp, e.cut.sizes.pp, e.cut.sizes.dp), end);
    stack(left, y, shown(&Estimate::memory, e.memory), fullest);
    stack(left + width + gap, y, shown(&Estimate::time, e.time), slowest);
  }
  const auto legend = [&](double y, const std::string& of, const Parts& parts) {
    out += svg_text(left - 12, y + 10, of, end);
    double x = left;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      out += svg_rectangle(x, y, 10, 10, colour(static_cast<int>(i)));
      out += svg_text(x + 14, y + 10, parts[i].first, start + " font-size=\"12\"");
      x += 30 + 7 * static_cast<double>(parts[i].first.size());
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
  std::vector<std::vector<std::string>> rows = {{"published run", "reached", "planner / reached", ""}};
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
