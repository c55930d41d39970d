// What lesson 13 shows: the table of all axes, and what a sweep has found.
#pragma once

#include "13_all_axes/harness/measure.hpp"
#include "13_all_axes/harness/sweep.hpp"

namespace tessera::all_axes {

/// The table of all axes: what is cut, what a rank holds and sends, and when to use it.
inline std::string text(const std::vector<Measured>& all, std::int64_t element_bytes) {
  if (all.empty()) return "";
  std::vector<std::vector<std::string>> held = {{"One axis alone, 2 ranks", "cuts", "weights",
                                                 "gradients, state", "activations", "calls", "sent a step",
                                                 "formula"}},
                                        used = {{"The same", "sends", "when", "grows with", "use it"}};
  for (const Measured& one : all) {
    const Axis& a = one.axis;
    held.push_back({"  " + a.name, a.cut, bytes(one.weights), bytes(one.state), bytes(one.activations),
                    std::to_string(one.calls), bytes(one.sent), element_bytes == 4 ? a.formula : ""});
    used.push_back({"  " + a.name, a.sends, a.when, a.grows, a.where});
  }
  return "\n" + table(held, "llrrrrrl", 2) + "\n" + table(used, "lllll", 2);
}

inline std::string text(const std::vector<Swept>& all, bool stable) {
  if (all.empty()) return "";
  std::vector<std::vector<std::string>> rows = {
      {"Every cut = unsplit?", "ranks", "factorisations", "runs", "loss off by", "gradient off by"}};
  std::int64_t factorisations = 0, runs = 0;
  for (const Swept& one : all) {
    factorisations += one.factorisations, runs += one.runs;
    const auto off = [&](double by) {
      return stable ? (by <= 1e-10 ? "< 1e-10" : "over") : format("{:.1g}", by);
    };
    rows.push_back({"  " + one.what, std::to_string(one.ranks), std::to_string(one.factorisations),
                    std::to_string(one.runs), off(one.loss), off(one.gradient)});
  }
  rows.push_back({"  all", "", std::to_string(factorisations), std::to_string(runs), "", ""});
  return "\n" + table(rows, "lrrrrr", 2);
}

inline void record(Proof& proof, const std::vector<Measured>& all) {
  for (const Measured& one : all)
    proof.record("axes." + one.axis.name, std::vector<std::int64_t>{one.weights, one.state, one.activations,
                                                                    one.calls, one.sent, one.predicted});
}
inline void record(Proof& proof, const std::vector<Swept>& all) {
  for (const Swept& one : all)
    proof.record(format("sweep.{} ranks, {}", one.ranks, one.what),
                 std::vector<double>{double(one.factorisations), double(one.runs), one.loss, one.gradient});
}

}  // namespace tessera::all_axes
