// What lesson 14 claims: its times are those of published runs, to 10%, and its memory and bytes are those
// that lesson 08's trainer counts, to the byte.
#pragma once

#include "08_three_d/generate.hpp"
#include "09_sequence_parallel/parts.hpp"
#include "10_zero/sharded_optimizer.hpp"
#include "11_context_parallel/parts.hpp"
#include "12_experts/parts.hpp"
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

/// A model for the ranks of this run.
inline Question small_question(const Proof& proof) {
  Question asked;
  asked.model.attention = {32, 4, 4, {}};
  asked.model.attention.options.seq = 16;
  asked.model.layers = 4, asked.model.vocabulary = 64, asked.model.tied = true;
  asked.devices = proof.ranks(), asked.batch = std::int64_t{8} * proof.ranks();
  asked.weight_bytes = proof.element_bytes(), asked.wide_bytes = proof.wide_bytes();
  asked.fused_attention = false;
  return asked;
}

struct SmallCut {
  std::string name;
  Question asked;
  Cut cut;
};
/// The cuts of it that are run. Where each token goes to all experts, the bytes are those of an even router.
inline std::vector<SmallCut> small_cuts(const Question& asked) {
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

/// Two steps of lesson 08's trainer, with lessons 09's and 10's parts, of which the second one is compared.
inline void check_counted(Proof& proof, Communicator& world, const SmallCut& small) {
  const std::string& name = small.name;
  const Question& asked = small.asked;
  const Cut& cut = small.cut;
  const Journal before = world.journal();
  const three_d::Config run = run_of(asked, cut);
  const pipeline::Plan& schedule =
      schedule_of(run.training.schedule, cut.sizes.pp, run.training.microbatches, run.training.chunks);
  double memory_off = 0;
  std::map<std::pair<std::string, std::string>, double> sent;
  {
    const three_d::Mesh mesh(world, cut.sizes);
    three_d::TrainingConfig training = run.training;
    if (training.model.sequence_parallel) sequence_parallel::use_in(training, training.model.regather);
    if (training.model.experts > 0) experts::use_in(training);
    if (cut.sizes.cp > 1) context_parallel::use_in(training, cut.sizes.cp, cut.way, training.model.zigzag);
    zero::use_in(training, cut.zero);
    three_d::Trainer trainer(mesh, training, proof.dtype(),
                             gpt::initial_weights(training.model, nullptr, proof.dtype(), proof.seed()));
    const auto microbatches =
        own_microbatches(gpt::random_tokens(training.model, proof.seed()), run, trainer);
    MemoryLedger& memory = Device::current()->memory;
    std::int64_t activations = 0;
    pipeline::WorkerHooks hooks;
    hooks.after = [&](const pipeline::Instruction&) {
      activations = std::max(activations, memory.now(MemoryKind::activation));
    };
    for (int step = 0; step < 2; ++step) {
      if (step == 1) world.journal().clear(), memory.reset_peak();
      trainer.gradients(microbatches, hooks);
      trainer.step();
    }
    for (const auto& [key, traffic] : world.journal().traffic())
      if (key.phase != "check") sent[{key.group, key.phase}] += static_cast<double>(traffic.wire);
    const Parts planned = memory_of(asked, cut, run, schedule, mesh.pp->rank());
    // What a stage of ZeRO cuts is there whole for a moment.
    const auto held = [&](MemoryKind kind, int cut_from) {
      return cut.zero >= cut_from ? memory.peak(kind) : memory.now(kind);
    };
    for (const auto& [part, bytes] : {std::pair{0, held(MemoryKind::weight, 3)},
                                      {1, held(MemoryKind::gradient, 2)},
                                      {2, held(MemoryKind::optimizer, 4)},
                                      {3, activations}})
      memory_off += std::abs(planned[static_cast<std::size_t>(part)].second - static_cast<double>(bytes));
  }
  double sent_off = 0;
  for (const AxisTraffic& one : traffic_of(asked, cut, run)) {
    double& mine = sent[{one.axis, one.phase}];
    sent_off += std::abs(sum_over(world, mine) - one.bytes * world.size());
    mine = 0;
  }
  double unplanned = 0;
  for (const auto& [where, bytes] : sent) unplanned += bytes;
  sent_off += sum_over(world, unplanned);
  memory_off = sum_over(world, memory_off);
  world.journal() = before;  // these calls are in no table
  proof.claim(format("{}: memory as lesson 08 counts it", name), memory_off, 0,
              "bytes, over all ranks and kinds");
  proof.claim(format("{}: bytes sent as lesson 08 counts them", name), sent_off, 0, "bytes, over all axes");
}

inline void check_counted(Proof& proof, Communicator& world) {
  proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
  for (const SmallCut& small : small_cuts(small_question(proof))) check_counted(proof, world, small);
}

}  // namespace tessera::plan
