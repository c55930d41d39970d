// Lesson 12: experts. Every number of ranks, experts and choices gives the definition's results, its bytes
// and its memory; ties go to the lower index; with a capacity the answer depends on the cut.
#include "12_experts/harness/screen.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::experts;

namespace {

Outcome outcome_of(const Config& c, int ranks, DType dtype = DType::f64) {
  return proven(ranks, {Tier::floating, dtype, 3},
                [&](Proof& proof, Communicator& world) { prove(proof, world, c); });
}

}  // namespace

TEST_CASE("lesson 12 holds at 1 to 8 ranks: experts, choices, tokens that nothing divides, ties, capacity") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 6, 8})
    for (const int ep : {1, 2, 3, 4, 8})
      for (const std::int64_t experts : {2, 3, 4, 8, 12, 16})
        for (const std::int64_t top_k : {1, 2})
          for (const std::int64_t tokens : {5, 23})
            for (const double router_scale : {3.0, 0.0})  // 0: all are equal, and the first experts get all
              for (const double capacity : {0.0, 0.7})
                for (const DType dtype : {DType::f32, DType::f64}) {
                  if (ranks % ep != 0 || experts % ep != 0 || thin.skips()) continue;
                  if (capacity > 0 && (tokens == 5 || dtype == DType::f32)) continue;
                  INFO(ranks, " ranks, ep ", ep, ", experts ", experts, ", top ", top_k, ", tokens ", tokens,
                       ", router ", router_scale, ", capacity ", capacity);
                  const Config c{tokens, 5, 7, experts, top_k, ep, capacity, 0.3, router_scale};
                  CHECK(faults(outcome_of(c, ranks, dtype)) == "");
                }
}
