// What each axis alone sends and keeps, counted in a step of lesson 08's trainer.
#pragma once

#include "08_three_d/harness/count.hpp"
#include "08_three_d/harness/screen.hpp"
#include "13_all_axes/axes.hpp"
#include "13_all_axes/compose.hpp"

namespace tessera::all_axes {

struct Measured {
  Axis axis;
  std::int64_t weights = 0, state = 0,
               activations = 0;                     // bytes of the rank that holds most; state: gradients
  std::int64_t calls = 0, sent = 0, predicted = 0;  // of all ranks; bytes
};

/// A step of `s`, which cuts one axis alone.
inline Measured measure(const Proof& proof, Communicator& world, const Config& s, const Axis& axis) {
  const three_d::Mesh mesh(world, s.sizes, world.name() + "-");
  const auto batch = [&](int step) { return batch_of(s, proof.seed(), step); };
  const auto [held, traffic] = three_d::count_step(mesh, s, proof.dtype(), proof.seed(), batch);
  double calls = 0, sent = 0, moved = 0;
  for (const auto& [key, one] : traffic) calls += double(one.calls), sent += double(one.wire);
  for (const std::int64_t rows : three_d::routed(world.journal(), "fwd").leave) moved += double(rows);
  const auto of_all = [&](double mine) { return static_cast<std::int64_t>(sum_over(world, mine)); };
  const CheckScope scope(world);
  const Tensor mine = Tensor::of(1, 3, {held[0], held[1] + held[2], held[3]});
  const auto most = world.all_reduce(mine, Reduce::max).values();
  return {axis,
          std::int64_t(most[0]),
          std::int64_t(most[1]),
          std::int64_t(most[2]),
          of_all(calls),
          of_all(sent),
          bytes_alone(s, proof.element_bytes(), proof.wide_bytes(), of_all(moved))};
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

/// The groups that the ranks have formed, against the numbers that they should have.
inline void check_groups(Proof& proof, const three_d::Grid& grid, const ParallelSizes& sizes) {
  double wrong = 0;
  for (const auto& [axis, ranks] : grid)
    if (axis != "embedding") wrong += ranks != groups(axis, sizes);
  proof.claim("groups of every axis = Megatron-Core's order", wrong, 0,
              "mesh.hpp: tp is fastest, then cp, dp, pp");
}

}  // namespace tessera::all_axes
