// The same run under other layouts: unsplit, as the reference, or along one axis alone, to find the axis that
// is broken.
#pragma once

#include "08_three_d/train.hpp"

namespace tessera::three_d {

/// What the run of `s` finds under the layout `sizes`, from the same initial weights and over the same
/// batches. Its memory is booked as checks, and it saves nothing. Collective over `world`.
inline Results run_with_layout(Communicator& world, Config s, const ParallelSizes& sizes, DType dtype,
                               std::uint64_t seed) {
  const MemoryScope scope(MemoryKind::check);
  ModelConfig& m = s.training.model;
  if (m.aux > 0)  // each microbatch has an auxiliary loss, over the tokens of all replicas
    m.attention.options.batch *= s.sizes.dp / sizes.dp;
  else
    s.training.microbatches *= s.sizes.dp / sizes.dp;  // the same microbatches
  if (sizes.pp == 1) s.training.chunks = 1, s.training.schedule = pipeline::Schedule::one_f_one_b;
  if (sizes.ranks() == 1) {
    const auto worker = s.training.parts.worker;
    s.training.parts = {}, m.sequence_parallel = m.experts > 0, s.training.zero = 0;
    if (m.experts > 0) s.training.parts.worker = worker;
  }
  s.sizes = sizes, m.cp = sizes.cp, m.ep = sizes.ep;
  s.save.clear();
  const Mesh mesh(world, sizes, world.name() + "-");
  Trainer trainer = make_trainer(mesh, s, dtype, seed, MemoryKind::check);
  return run(world, trainer, s, seed);
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

// begin find_broken_axis
/// "alone, tp is off by 0.2, pp holds, dp holds: look at tp". Collective; rank 0 knows the true losses and
/// gets the sentence.
inline std::string find_broken_axis(Communicator& world, Config s, DType dtype, std::uint64_t seed,
                                    const std::vector<double>& truth, double bound) {
  const Journal before = world.journal();
  s.sample = 0;
  std::vector<std::string> found, broken;
  for (const auto& [axis, sizes] : {std::pair{"tp", ParallelSizes{s.sizes.tp, 1, 1}},
                                    {"pp", ParallelSizes{1, s.sizes.pp, 1}},
                                    {"dp", ParallelSizes{1, 1, s.sizes.dp}},
                                    {"cp", ParallelSizes{1, 1, 1, s.sizes.cp}},
                                    {"ep", ParallelSizes{1, 1, s.sizes.ep, 1, s.sizes.ep}}}) {
    if (sizes.ranks() == 1) continue;
    const auto group =
        world.split(world.rank() < sizes.ranks() ? 0 : -1, world.rank(), format("{}-alone", axis));
    if (!group) continue;  // waits at the next split
    const auto busy = world.busy(format("runs with {} alone", axis));
    const double error = largest_distance(run_with_layout(*group, s, sizes, dtype, seed).losses, truth);
    const bool holds = error <= bound;
    found.push_back(holds ? format("{} holds", axis) : format("{} is off by {:g}", axis, error));
    if (!holds) broken.push_back(axis);
  }
  world.journal() = before;  // these calls are in no table
  return format("alone, {}: {}", join(found),
                broken.empty() ? "the fault is where they meet" : "look at " + join(broken, " and "));
}
// end find_broken_axis

}  // namespace tessera::three_d
