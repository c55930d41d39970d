// Lesson 10: ZeRO, data parallelism whose replicas share out what they would all hold. The lesson is
// units.hpp (what a rank owns) and replica.hpp (the step); trainer.hpp is for lesson 08 with --zero.
#include "10_zero/harness/screen.hpp"
#include "gpt/harness/command_line.hpp"

using namespace tessera;
using namespace tessera::zero;

int main(int argc, char** argv) {
  Config s;
  gpt::ModelConfig& m = s.training.model;
  m.attention = {32, 4, 4, {}};
  m.layers = 4;
  m.attention.options.seq = 16;
  m.attention.options.batch = 10;
  std::int64_t stage = 3, microbatches = 1;
  std::string optimizer = "adamw";
  bool no_prefetch = false, compare_all = false;
  App app({"10", "ZeRO",
           "d replicas of P weights; a rank owns a d-th of the state (stage 1), of the gradients (2), of the "
           "weights (3)",
           "Why the same bits: an optimiser steps each element by itself, and every sum is taken in the same "
           "order.",
           format("units.hpp:{}", code_line)});
  app.flags().number("--stage", stage, 0, 3,
                     "0: nothing is cut; 1: optimiser; 2: and gradients; 3: and weights");
  app.size("--batch", m.attention.options.batch, "sequences of a step, shared out over the ranks");
  app.flags().number("--microbatches", microbatches, 1, 1024, "m, of each rank");
  app.flags().number("--steps", s.steps, 0, 1 << 20, "of training");
  app.flags().toggle("--compare", compare_all, "all four stages in one table");
  app.flags().choice("--optimizer", optimizer, {"sgd", "adamw"}, "sgd has momentum 0.9");
  app.flags().number("--layers", m.layers, 1, 4096, "blocks");
  gpt::add_size_flags(app, m);
  app.flags().real("--lr", s.training.lr, 0, 1e3, "learning rate");
  app.flags().real("--clip", s.training.clip, 0, 1e9, "largest norm of the gradients; 0: any");
  app.flags().toggle("--no-prefetch", no_prefetch,
                     "stage 3: gather a part's weights only when they are needed");
  std::vector<double> losses;
  std::vector<Measured> stages;

  const auto lesson = [&](Proof& proof, Communicator& dp) {
    const auto group = dp.split(dp.rank(), 0, "tp");
    const TensorParallel alone(*group);  // nothing is cut over tp here
    const Batch batch = make_batch(s, dp, proof.seed());
    check_first_step(proof, alone, dp, s, batch);  // loss and gradients, against the unsplit model

    ZeroReplica replica = make_replica(proof, alone, dp, s, s.training.stage);  // what this rank owns
    const std::vector<double> found = train(replica, batch, s, dp);  // gradients, step: replica.hpp
    check_run(proof, alone, dp, s, batch, replica, found);           // against plain data parallelism

    const auto measured = compare_all ? measure_stages(proof, dp, s) : std::vector<Measured>{};
    if (dp.rank() == 0) losses = found, stages = measured;
  };
  const auto check_arguments = [&](int ranks) {
    s.training.stage = static_cast<int>(stage), s.microbatches = static_cast<int>(microbatches);
    s.training.adamw = optimizer == "adamw", s.training.prefetch = !no_prefetch;
    gpt::set_batch(m, m.attention.options.batch, 1);
    const std::int64_t batch = m.attention.options.batch, least = ranks * microbatches;
    if (batch < least || batch % microbatches != 0)
      throw UsageError(
          format("--batch {} cannot give each of {} ranks {} microbatches of equally many sequences: "
                 "--batch {} would work",
                 batch, ranks, microbatches, std::max(least, (batch / microbatches + 1) * microbatches)));
    if (no_prefetch && stage != 3)
      throw UsageError("--no-prefetch is for --stage 3: without --no-prefetch it would work");
  };
  const auto more = [&] {
    std::string text = compare_all ? compare(stages, s) + "\n" : "";
    if (app.options().stable || losses.empty()) return text;
    return text + format("loss {} before the first step, {} before step {}\n", number(losses.front()),
                         number(losses.back()), losses.size());
  };
  return app.run(argc, argv,
                 {.check = check_arguments,
                  .prove = lesson,
                  .by_hand = by_hand,
                  .picture = [](int ranks) { return picture(ranks); },
                  .more = more,
                  .inexact = gpt::inexact});
}
