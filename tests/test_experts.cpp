// Lesson 12: experts. Every number of ranks, experts and choices gives the definition's results, its bytes
// and its memory; ties go to the lower index; with a capacity the answer depends on the cut.
#include "08_three_d/harness/command_line.hpp"
#include "08_three_d/harness/proof.hpp"
#include "11_context_parallel/parts.hpp"
#include "12_experts/harness/screen.hpp"
#include "12_experts/parts.hpp"
#include "models.hpp"
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

namespace {

/// Lesson 08's trainer with experts in the second and the fourth block.
three_d::Config trained(const three_d::ParallelSizes& sizes, std::int64_t top_k, double aux,
                        int microbatches = 1) {
  three_d::Config s;
  s.sizes = sizes;
  gpt::ModelConfig& m = s.training.model =
      model_of({.heads = 4, .layers = 4, .vocabulary = 13, .seq = 16, .tied = true});
  s.batch = 8;
  s.training.microbatches = microbatches;
  gpt::set_batch(m, s.batch, sizes.dp * microbatches, INT64_MAX);
  m.experts = 8, m.top_k = top_k, m.aux = aux, m.ep = sizes.ep;
  s.training.lr = 0.05;
  s.steps = 3;
  for (int i = 0; i < 300; ++i) s.text.ids.push_back(static_cast<std::uint16_t>((i * i + i / 7) % 13));
  experts::use_in(s.training);
  s.training.parts.reference = experts::reference_step;
  if (sizes.cp > 1) context_parallel::use_in(s.training, sizes.cp, gpt::Way::ring, true);
  return s;
}

}  // namespace

TEST_CASE("lesson 08 with experts: every cut has the unsplit model's gradients and losses, and its bytes") {
  Thin thin;
  const auto run = [&](const three_d::Config& s, DType dtype) {
    std::vector<double> losses;
    const Outcome outcome =
        proven(s.sizes.ranks(), {Tier::floating, dtype, 3}, [&](Proof& proof, Communicator& world) {
          const auto found = three_d::prove(proof, world, s);
          if (world.rank() == 0) losses = found.run.losses;
        });
    CHECK(faults(outcome) == "");
    return losses;
  };
  for (const std::int64_t top_k : {1, 2})
    for (const double aux : {0.0, 0.3}) {
      const auto unsplit = run(trained({1, 1, 1}, top_k, aux), DType::f64);
      CHECK(unsplit.size() == 3);
      using Sizes = three_d::ParallelSizes;  // tp, pp, dp, cp, ep
      for (const Sizes& sizes : {Sizes{1, 1, 2, 1, 1},
                                 {1, 1, 2, 1, 2},
                                 {1, 1, 4, 1, 2},
                                 {1, 1, 8, 1, 8},
                                 {2, 1, 1},
                                 {2, 2, 2, 1, 2},
                                 {1, 1, 1, 2, 2},
                                 {2, 1, 1, 4, 4},
                                 {1, 2, 2, 2, 4},
                                 {1, 4, 2, 1, 1}})
        for (const DType dtype : {DType::f64, DType::f32}) {
          if (thin.skips()) continue;
          INFO(text(sizes), ", cp ", sizes.cp, ", ep ", sizes.ep, ", top ", top_k, ", aux ", aux);
          const auto losses = run(trained(sizes, top_k, aux, aux > 0 ? 1 : 8 / sizes.dp), dtype);
          if (dtype == DType::f64) CHECK(three_d::largest_distance(losses, unsplit) <= 1e-10);
        }
    }
}
