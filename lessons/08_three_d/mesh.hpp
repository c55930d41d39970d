// The ranks of the world stand in a box of tp x dp x pp, in the order of Megatron (parallel_state.py): tp is
// fastest, since its ranks communicate most and should share a machine, then dp, then pp.
#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "tensor/error.hpp"

namespace tessera::three_d {

struct ParallelSizes {
  int tp = 1, pp = 1, dp = 1, cp = 1, ep = 1;  // ep divides cp dp
  int ranks() const { return tp * cp * dp * pp; }
  int replicas() const { return cp * dp; }  // ranks that have the same weights, but for experts
};

/// A rank's place in the box, as far as it says which weights the rank has.
struct Place {
  ParallelSizes sizes;
  int tp = 0, stage = 0;
};

// begin mesh
/// The process groups of one rank: for each axis, the ranks that differ from it on that axis alone.
struct Mesh {
  ParallelSizes sizes;
  std::unique_ptr<Communicator> tp, dp, pp;
  std::unique_ptr<Communicator>
      embedding;  // first and last stage, which share the embedding; null on the others

  // task 08.mesh (design, 4 points, 40 min): world -> the four groups, called prefix + "tp", "dp", "pp" and
  // "embedding". The rank at place (t, d, p) of the box has number t + tp (d + dp p) in the world.
  // Hint: world.split(color, key, name) makes a group of all ranks with one color, in the order of their
  // keys, and null where the color is -1: so every rank calls it for every group. What is the same for the
  // ranks of a group is their place on the other two axes. A pipeline of one stage has no embedding group.
  Mesh(Communicator& world, const ParallelSizes& s, const std::string& prefix = "") : sizes(s) {
    expect_eq(world.size(), s.ranks(), "ranks of the world, tp pp dp");
    const int t = world.rank() % s.tp, d = world.rank() / s.tp % s.dp, p = world.rank() / (s.tp * s.dp);
    tp = world.split(d + s.dp * p, t, prefix + "tp");
    dp = world.split(t + s.tp * p, d, prefix + "dp");
    pp = world.split(t + s.tp * d, p, prefix + "pp");
    const bool at_end = p == 0 || p == s.pp - 1;
    embedding = world.split(at_end && s.pp > 1 ? t + s.tp * d : -1, p, prefix + "embedding");
  }
  // end task
  Place place() const { return {sizes, tp->rank(), pp->rank()}; }
};
// end mesh

}  // namespace tessera::three_d
