// When the combined run is wrong: which axis is it? Each is run alone, over the same batches, and compared
// with the same truth.
#pragma once

#include "08_three_d/train.hpp"

namespace tessera::three_d {

/// Of two runs' losses. Infinity where one is NaN, or a step is missing.
inline double largest_distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double off = std::abs(a[i] - b[i]);
    if (!(off <= most)) most = std::isnan(off) ? INFINITY : off;
  }
  return most;
}

/// Rank 0's answer, on every rank.
inline bool agreed(Communicator& world, bool answer) {
  const Phase phase = world.phase("check");
  const MemoryScope scope(MemoryKind::check);
  const Tensor one = Tensor::of(1, 1, {answer ? 1.0 : 0.0});
  world.broadcast(one, 0);
  return one.values()[0] != 0;
}

// begin find_broken_axis
/// "alone, tp is off by 0.2, pp holds, dp holds: look at tp".
/// Collective; rank 0 has the truth and gets the sentence.
inline std::string find_broken_axis(Communicator& world, const Config& s, DType dtype, std::uint64_t seed,
                                    const std::vector<double>& truth, double bound) {
  const Journal before = world.journal();
  std::string found, broken;
  for (const auto& [axis, sizes] : {std::pair{"tp", ParallelSizes{s.sizes.tp, 1, 1}},
                                    {"pp", ParallelSizes{1, s.sizes.pp, 1}},
                                    {"dp", ParallelSizes{1, 1, s.sizes.dp}}}) {
    if (sizes.ranks() == 1) continue;
    const auto group = world.split(world.rank() < sizes.ranks() ? 0 : -1, world.rank(), str(axis, "-alone"));
    if (!group) continue;  // waits at the next split
    const auto busy = world.busy(str("trains with ", axis, " alone"));
    const std::string name = axis;
    run_with_layout(*group, s, sizes, dtype, seed, [&](Mesh& mesh, Trainer& trainer, const Config& own) {
      const double error = largest_distance(train(*group, mesh, trainer, own, seed), truth);
      found += str(found.empty() ? "alone, " : ", ", name);
      found += error <= bound ? std::string(" holds") : str(" is off by ", error);
      if (!(error <= bound)) broken += str(broken.empty() ? "" : " and ", name);
    });
  }
  world.journal() = before;  // these calls are in no table
  return found + (broken.empty() ? ": the fault is where they meet" : ": look at " + broken);
}
// end find_broken_axis

}  // namespace tessera::three_d
