// The same run under other layouts: unsplit, as the reference, or along one axis alone, to find the axis that
// is broken.
#pragma once

#include "08_three_d/train.hpp"

namespace tessera::three_d {

/// The run of `s` under the layout `sizes`: the same model, batches and microbatches. Activations are cut by
/// tokens over tp only with `over_tp`, or with experts, which need it; `zero` is the stage of ZeRO.
inline Config with_layout(Config s, const ParallelSizes& sizes, bool over_tp = false, int zero = 0) {
  static const Composition plain;
  TrainingConfig& t = s.training;
  ModelConfig& m = t.model;
  if (m.aux > 0)  // each microbatch has an auxiliary loss, over the tokens of all replicas
    m.attention.options.batch = m.attention.options.batch * s.sizes.dp / sizes.dp;
  else
    t.microbatches = t.microbatches * s.sizes.dp / sizes.dp;
  if (sizes.pp == 1) t.chunks = 1, t.schedule = pipeline::Schedule::one_f_one_b;
  if (!over_tp && m.experts == 0) {
    m.sequence_parallel = m.regather = false;
    t.parts.worker = plain.worker, t.parts.sum_partials = plain.sum_partials;
  }
  if (zero == 0) t.parts.optimizer = plain.optimizer;
  t.zero = zero, m.cp = sizes.cp, m.ep = sizes.ep;
  s.sizes = sizes;
  s.save.clear();
  return s;
}

/// What this run finds, from the same initial weights. Its memory is booked as checks, and it saves nothing.
/// Collective over `world`.
inline Results run_with_layout(Communicator& world, const Config& s, const ParallelSizes& sizes, DType dtype,
                               std::uint64_t seed, bool over_tp = false, int zero = 0) {
  const MemoryScope scope(MemoryKind::check);
  const Config other = with_layout(s, sizes, over_tp, zero);
  const Mesh mesh(world, sizes, world.name() + "-");
  Trainer trainer = make_trainer(mesh, other, dtype, seed, MemoryKind::check);
  return run(world, trainer, other, seed);
}

/// One axis of a run without the others, or one method on top of it: sequence parallelism, or ZeRO.
struct Alone {
  std::string axis;
  ParallelSizes sizes;
  bool over_tp = false;    // lesson 09
  int zero = 0;            // lesson 10
  std::string needs = "";  // the axis below it: where that is broken, so is this one
};
inline std::vector<Alone> axes_alone(const Config& s) {
  const ParallelSizes& z = s.sizes;
  std::vector<Alone> all = {{"tp", {z.tp}}, {"pp", {1, z.pp}}, {"dp", {1, 1, z.dp}}, {"cp", {1, 1, 1, z.cp}}};
  if (s.training.model.sequence_parallel && s.training.model.experts == 0)
    all.push_back({"sequence parallel", {z.tp}, true, 0, "tp"});
  if (s.training.zero > 0) all.push_back({"ZeRO", {1, 1, z.replicas()}, false, s.training.zero, "dp"});
  all.push_back({"ep", {1, 1, z.ep, 1, z.ep}, false, 0, "dp"});
  const std::int64_t parts =
      s.training.model.aux > 0 ? s.training.model.attention.options.batch : s.training.microbatches;
  std::erase_if(all, [&](const Alone& one) {  // what is not cut, or cannot be cut so
    return one.sizes.ranks() == 1 || parts * z.dp % one.sizes.dp != 0;
  });
  return all;
}

/// The largest distance of two runs' losses. Infinity where one is NaN, or a step is missing.
inline double largest_distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double off = std::abs(a[i] - b[i]);
    if (!(off <= most)) most = std::isnan(off) ? INFINITY : off;
  }
  return most;
}

/// "alone, tp is off by 0.2, pp holds, dp holds: look at tp". Collective; rank 0 knows the true losses and
/// gets the sentence.
inline std::string find_broken_axis(Communicator& world, Config s, DType dtype, std::uint64_t seed,
                                    const std::vector<double>& truth, double bound) {
  const Journal before = world.journal();
  s.sample = 0;
  // begin find_broken_axis
  std::vector<std::string> found, broken;
  for (const auto& [axis, sizes, over_tp, stage, needs] : axes_alone(s)) {
    const auto group =
        world.split(world.rank() < sizes.ranks() ? 0 : -1, world.rank(), format("{}-alone", axis));
    if (!group) continue;  // waits at the next split
    const auto busy = world.busy(format("runs with {} alone", axis));
    const Results mine = run_with_layout(*group, s, sizes, dtype, seed, over_tp, stage);
    const double error = largest_distance(mine.losses, truth);
    const bool holds = error <= bound;
    found.push_back(holds ? format("{} holds", axis) : format("{} is off by {:g}", axis, error));
    if (!holds && std::ranges::find(broken, needs) == broken.end()) broken.push_back(axis);
  }
  world.journal() = before;  // these calls are in no table
  return format("alone, {}: {}", join(found),
                broken.empty() ? "the fault is where they meet" : "look at " + join(broken, " and "));
}
// end find_broken_axis

}  // namespace tessera::three_d
