// What lesson 13 shows: what each axis alone sends and keeps, counted in a step of lesson 08's trainer, and
// what a sweep has found.
#pragma once

#include "08_three_d/harness/count.hpp"
#include "08_three_d/harness/screen.hpp"
#include "13_all_axes/axes.hpp"
#include "13_all_axes/harness/sweep.hpp"

namespace tessera::all_axes {

struct Measured {
  Axis axis;
  /// Bytes of the rank that holds most. `state`: gradients and the optimiser's state.
  std::int64_t weights = 0, state = 0, activations = 0;
  std::int64_t calls = 0, sent = 0, predicted = 0;  // of all ranks; `sent` and `predicted` are bytes
};

/// A step of `s`, which cuts one axis alone.
inline Measured measure(const Proof& proof, Communicator& world, const Config& s, const Axis& axis) {
  const three_d::Mesh mesh(world, s.sizes, world.name() + "-");
  const auto batch = [&](int step) { return batch_of(s, proof.seed(), step); };
  const auto [held, traffic] = three_d::count_step(mesh, s, proof.dtype(), proof.seed(), batch);
  double calls = 0, sent = 0, moved = 0;
  for (const auto& [key, one] : traffic) calls += one.calls, sent += one.wire;
  for (const std::int64_t rows : three_d::routed(world.journal(), "fwd").leave) moved += rows;
  const auto of_all = [&](double mine) { return sum_over(world, mine); };
  const CheckScope scope(world);
  const Tensor mine = Tensor::of(1, 3, {held[0], held[1] + held[2], held[3]});
  const auto most = world.all_reduce(mine, Reduce::max).values();
  Measured found{axis};
  found.weights = most[0], found.state = most[1], found.activations = most[2];
  found.calls = of_all(calls), found.sent = of_all(sent);
  found.predicted = bytes_alone(s, proof.element_bytes(), proof.wide_bytes(), of_all(moved));
  return found;
}

/// Each axis of the table alone on two ranks, as far as the model of `whole` allows it. Rank 0 gets all rows.
inline std::vector<Measured> measure_axes(Proof& proof, Communicator& world, const Config& whole) {
  if (world.size() == 1) return {};
  const Journal before = world.journal();
  std::vector<Measured> all;
  double off = 0;
  for (const Axis& axis : axes(2)) {
    Config s = whole;
    three_d::TrainingConfig& t = s.training;
    t.parts = {}, t.clip = 0, t.model.aux = 0;
    t.chunks = 1, t.schedule = pipeline::Schedule::one_f_one_b, t.model.way = gpt::Way::ring;
    t.model.regather = t.model.regather && axis.over_tp;
    if (axis.sizes.ep == 1) t.model.experts = 0;
    const bool divides = t.microbatches * s.sizes.dp % axis.sizes.dp == 0;
    if ((axis.name == "ep" && t.model.experts == 0) || !divides) continue;
    s = with_layout(s, axis.sizes, true, axis.zero);
    t.model.sequence_parallel = axis.over_tp || t.model.experts > 0;
    if (!allows(s, axis.sizes)) continue;
    compose(t);
    const int n = axis.sizes.ranks();
    const auto group = world.split(world.rank() < n ? 0 : -1, world.rank(), axis.name + " alone");
    if (!group) continue;  // waits at the next split
    all.push_back(measure(proof, *group, s, axis));
    off += std::abs(double(all.back().sent - all.back().predicted));
  }
  world.journal() = before;  // these calls are in no table
  Device::current()->memory.reset_peak();
  proof.claim(format("bytes of each of {} axes alone = its formula", all.size() - 1), off, 0,
              "axes.hpp: which row of the table differs?");
  return all;
}

/// Checks the groups that the ranks have formed against the ranks that each should have.
inline void check_groups(Proof& proof, const three_d::Grid& grid, const ParallelSizes& sizes) {
  double wrong = 0;
  for (const auto& [axis, ranks] : grid)
    if (axis != "embedding") wrong += ranks != groups(axis, sizes);
  proof.claim("groups of every axis = Megatron-Core's order", wrong, 0,
              "mesh.hpp: tp is fastest, then cp, dp, pp");
}

/// The table of all axes: what is cut, what a rank holds and sends, and when to use it.
inline std::string text(const std::vector<Measured>& all, std::int64_t element_bytes) {
  if (all.empty()) return "";
  Cells held = {{"One axis alone, 2 ranks", "cuts", "weights", "gradients, state", "activations", "calls",
                 "sent a step", "formula"}},
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
  Cells rows = {
      {"Every cut = unsplit?", "ranks", "factorisations", "runs", "loss off by", "gradient off by"}};
  std::int64_t factorisations = 0, runs = 0;
  for (const Swept& one : all) {
    factorisations += one.factorisations, runs += one.runs;
    const auto off = [&](double by) {
      return stable ? (by <= 1e-10 ? "< 1e-10" : "over") : format("{:.1g}", by);
    };
    rows.push_back(
        row_of("  " + one.what, one.ranks, one.factorisations, one.runs, off(one.loss), off(one.gradient)));
  }
  rows.push_back(row_of("  all", "", factorisations, runs, "", ""));
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
