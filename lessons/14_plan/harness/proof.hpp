// What lesson 14 claims: its times are those of published runs, to 10%, and its memory and bytes are those
// that lesson 08's trainer counts, to the byte.
#pragma once

#include "08_three_d/harness/count.hpp"
#include "13_all_axes/compose.hpp"
#include "14_plan/harness/published.hpp"
#include "app/proof.hpp"
#include "gpt/harness/proof.hpp"

namespace tessera::plan {

inline void check_published(Proof& proof) {
  for (const Published& one : published) {
    const double ratio = one.ratio({});
    proof.claim(format("{}: time of a step{}", one.name, one.fitted ? ", fitted" : ""), std::abs(ratio - 1),
                0.1, format("the planner says {:.0f}% of what the run reached", 100 * ratio));
  }
}

struct SmallCut {
  std::string name;
  Question asked;
  Cut cut;
};
/// Cuts of a small model over the ranks of this run. Each token goes to all experts, so that the bytes are
/// those of an even router.
inline std::vector<SmallCut> small_cuts(const Proof& proof) {
  Question asked;
  asked.model = {{32, 4, 4, {.seq = 16}}, 4, 64, 1, true};
  asked.devices = proof.ranks(), asked.batch = std::int64_t{8} * proof.ranks();
  asked.weight_bytes = proof.element_bytes(), asked.wide_bytes = proof.wide_bytes();
  asked.fused_attention = false;
  const int ranks = asked.devices, half = ranks % 2 == 0 ? 2 : 1, pp = ranks % 4 == 0 ? 2 : 1;
  Cut cut;
  cut.sizes = {half, pp, ranks / (half * pp)};
  Cut sharded = cut, chunked = cut, context = cut, experts = cut;
  sharded.zero = 3, sharded.sequence_parallel = half > 1;
  chunked.chunks = pp > 1 ? 2 : 1, chunked.zero = 1;
  context.sizes = {1, pp, ranks / (half * pp), half}, context.zero = 1;
  experts.sizes = {1, pp, ranks / pp, 1, half}, experts.zero = 2;
  Question streamed = asked, mixed = asked;
  streamed.fused_attention = true;
  mixed.model.experts = mixed.model.top_k = 2;
  std::vector<SmallCut> all = {{"1F1B", asked, cut},
                               {"sequence parallel, ZeRO 3", asked, sharded},
                               {"interleaved, ZeRO 1", asked, chunked},
                               {"context parallel, ZeRO 1", streamed, context},
                               {"experts, ZeRO 2", mixed, experts}};
  if (ranks % 8 == 0) {  // as lesson 13 cuts
    mixed.fused_attention = true;
    Cut every = sharded;
    every.sizes = {2, 2, ranks / 8, 2, 2}, every.chunks = 2;
    all.push_back({"all axes, ZeRO 3", mixed, every});
  }
  return all;
}

/// Bytes as counted and as planned. `off` adds up how far they are apart for each kind, or for each axis.
struct Compared {
  double counted = 0, planned = 0, off = 0;
  void add(double is, double should_be) {
    counted += is, planned += should_be, off += std::abs(is - should_be);
  }
};
struct ComparedCut {
  Compared state, activations;  // of this rank; state: weights, gradients, the optimiser's
  Compared sent;                // by all ranks
};

/// A step of lesson 08's trainer under this cut, with the parts of lessons 09 to 12, beside the plan.
/// Collective.
inline ComparedCut compare(Communicator& world, const Question& asked, const Cut& cut, DType dtype,
                           std::uint64_t seed) {
  const Journal before = world.journal();
  three_d::Config run = run_of(asked, cut);
  all_axes::compose(run.training);
  const three_d::Mesh mesh(world, cut.sizes);
  const auto batch = [&](int) { return gpt::random_tokens(run.training.model, seed); };
  const auto [held, traffic] = three_d::count_step(mesh, run, dtype, seed, batch);
  const pipeline::Plan& schedule =
      schedule_of(run.training.schedule, cut.sizes.pp, run.training.microbatches, run.training.chunks);
  const Parts planned = memory_of(asked, cut, run, schedule, mesh.pp->rank());
  ComparedCut all;
  for (std::size_t kind = 0; kind < held.size(); ++kind)
    (kind < 3 ? all.state : all.activations).add(held[kind], planned[kind].second);
  for (Compared* one : {&all.state, &all.activations}) one->off = sum_over(world, one->off);

  std::map<std::pair<std::string, std::string>, double> sent;
  for (const auto& [key, one] : traffic) sent[{key.group, key.phase}] += one.wire;
  for (const AxisTraffic& one : traffic_of(asked, cut, run))
    all.sent.add(sum_over(world, std::exchange(sent[{one.axis, one.phase}], 0)), one.bytes * world.size());
  double unplanned = 0;
  for (const auto& [where, bytes] : sent) unplanned += bytes;
  all.sent.add(sum_over(world, unplanned), 0);
  world.journal() = before;  // these calls are in no table
  return all;
}

inline void check_counted(Proof& proof, Communicator& world) {
  proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
  for (const auto& [name, asked, cut] : small_cuts(proof)) {
    const ComparedCut found = compare(world, asked, cut, proof.dtype(), proof.seed());
    proof.claim(format("{}: memory as lesson 08 counts it", name), found.state.off + found.activations.off, 0,
                "bytes, over all ranks and kinds");
    proof.claim(format("{}: bytes sent as lesson 08 counts them", name), found.sent.off, 0,
                "bytes, over all axes");
  }
}

}  // namespace tessera::plan
