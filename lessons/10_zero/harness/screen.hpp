// What lesson 10 shows: an example by hand, the picture, and all four stages in one table.
#pragma once

#include "10_zero/harness/proof.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::zero {

/// Three weights over two ranks: a fourth element pads the row.
inline std::string by_hand() {
  const auto row = [](const std::vector<double>& values) { return Tensor::of(1, values.size(), values); };
  const Tensor w = row({1, 2, 3, 0}), g0 = row({1, 0, 2, 0}), g1 = row({3, 2, 0, 0}), sum = add(g0, g1);
  const Tensor stepped = add(w, scale(sum, -0.5));
  return "  By hand: the weights 1 2 3 and one element of padding, two ranks, w -= dw/2\n" +
         side_by_side({"w", "dw, rank 0", "dw, rank 1", "rank 0 owns", "|", "rank 1 owns"},
                      {w, g0, g1, sum.column_range(0, 2), {}, sum.column_range(2, 4)}) +
         side_by_side({"rank 0 steps", "|", "rank 1 steps", "gathered"},
                      {stepped.column_range(0, 2), {}, stepped.column_range(2, 4), stepped});
}

inline std::vector<Equation> picture(int ranks) {
  return equations(
      {{'1', {"1", 40}}, {'P', {ranks == 1 ? "Psi" : "Psi'", 112}}},
      {{"stages 1 and 2: a step",
        "+terms~of~dw(1,P) reduce-scatter -> dw(1,P/p) step w(1,P/p) all-gather -> w(1,P)"},
       {"stage 3: before a part computes, and after", "w(1,P/p) all-gather -> w(1,P) drop -> w(1,P/p)"}});
}

/// What one stage holds on this rank and what all ranks send in a step.
struct Measured {
  std::vector<std::int64_t> held;  // weights, gradients, the optimiser's state
  std::int64_t peak = 0, sent = 0;
};

/// One step of each stage on the same batch. Collective; leaves the journal as it was.
inline std::vector<Measured> measure_stages(const Proof& proof, const Mesh& mesh, Config s) {
  Communicator& dp = *mesh.dp;
  const Batch batch = make_batch(s, dp, proof.seed());
  const Journal before = dp.journal();
  std::vector<Measured> all;
  s.steps = 1;
  const MemoryLedger& memory = Device::current()->memory;
  constexpr MemoryKind kinds[] = {MemoryKind::weight, MemoryKind::gradient, MemoryKind::optimizer};
  std::map<MemoryKind, std::int64_t> others;  // what the lesson's own trainer holds
  for (const MemoryKind kind : kinds) others[kind] = memory.now(kind);
  for (int stage = 0; stage < 4; ++stage) {
    dp.journal().clear();
    Trainer trainer = make_trainer(proof, mesh, s, stage);
    train(trainer, batch, s);
    Measured& m = all.emplace_back();
    for (const MemoryKind kind : kinds) {
      m.held.push_back(memory.now(kind) - others[kind]);
      m.peak += memory.peak(kind) - others[kind];
    }
    double sent = 0;
    for (const auto& [key, traffic] : dp.journal().traffic()) sent += key.phase == "check" ? 0 : traffic.wire;
    m.sent = sum_over(dp, sent);
  }
  dp.journal() = before;
  return all;
}

inline std::string compare(const std::vector<Measured>& stages, const Config& s) {
  const double p = gpt::elements_of(s.training.model);
  Cells rows = {{"A rank keeps", "weights", "gradients", "optimiser", "a parameter", "at the peak",
                 "all ranks send a step"}};
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const auto& [held, peak, sent] = stages[i];
    rows.push_back({format("  stage {}", i), bytes(held[0]), bytes(held[1]), bytes(held[2]),
                    number((held[0] + held[1] + held[2]) / p) + " B", bytes(peak), bytes(sent)});
  }
  return table(rows, "lrrrrrr", 0);
}

}  // namespace tessera::zero
