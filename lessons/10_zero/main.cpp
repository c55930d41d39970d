// Lesson 10: ZeRO, data parallelism whose replicas share out what they would all hold. The lesson is
// units.hpp (what a rank owns) and sharded_optimizer.hpp (when it brings the rest); lesson 08's trainer runs
// with it, on a mesh of replicas alone.
#include "10_zero/harness/screen.hpp"
#include "gpt/harness/command_line.hpp"

using namespace tessera;
using namespace tessera::zero;

int main(int argc, char** argv) {
  Config s;
  three_d::TrainingConfig& t = s.training;
  t.model = {{32, 4, 4, {.seq = 16}}, 4};
  t.zero = 3, t.adamw = true, t.lr = 0.003;
  s.batch = 10;
  bool no_prefetch = false, compare_all = false;
  App app(
      {"10", "ZeRO",
       "dp replicas of Psi weights; a rank owns a dp-th of the state (stage 1), of the gradients (2), of the "
       "weights (3)",
       "Why the same bits: an optimiser steps each element by itself, and every sum is taken in the same "
       "order.",
       format("units.hpp:{}", code_line)});
  app.flags().number("--stage", t.zero, 0, 3,
                     "0: nothing is cut; 1: optimiser; 2: and gradients; 3: and weights");
  app.size("--batch", s.batch, "sequences of a step, shared out over the ranks");
  app.flags().number("--microbatches", t.microbatches, 1, 1024, "m, of each rank");
  app.flags().number("--steps", s.steps, 0, 1 << 20, "of training");
  app.flags().toggle("--compare", compare_all, "all four stages in one table");
  app.flags().choice("--optimizer", t.adamw, {{false, "sgd"}, {true, "adamw"}}, "sgd has momentum 0.9");
  app.flags().number("--layers", t.model.layers, 1, 4096, "blocks");
  gpt::add_size_flags(app, t.model);
  app.flags().real("--lr", t.lr, 0, 1e3, "learning rate");
  app.flags().real("--clip", t.clip, 0, 1e9, "largest norm of the gradients; 0: any");
  app.flags().toggle("--no-prefetch", no_prefetch,
                     "stage 3: gather a part's weights only when they are needed");
  std::vector<double> losses;
  std::vector<Measured> stages;

  const auto lesson = [&](Proof& proof, Communicator& world) {
    const Mesh mesh(world, s.sizes);  // tp and pp of one rank each
    const Batch batch = make_batch(s, *mesh.dp, proof.seed());
    check_first_step(proof, mesh, s, batch);  // loss and gradients, against the unsplit model

    Trainer trainer = make_trainer(proof, mesh, s, t.zero);      // what this rank owns
    const std::vector<double> found = train(trainer, batch, s);  // gradients, step: 08's trainer.hpp
    check_run(proof, s, batch, trainer, found);                  // against plain data parallelism

    const auto measured = compare_all ? measure_stages(proof, mesh, s) : std::vector<Measured>{};
    if (world.rank() == 0) losses = found, stages = measured;
  };
  const auto check_arguments = [&](int ranks) {
    s.sizes = {1, 1, ranks}, t.prefetch = !no_prefetch;
    gpt::set_batch(t.model, s.batch, 1);
    const std::int64_t m = t.microbatches, least = ranks * m;
    refuse_if(s.batch < least,
              "--batch {} leaves a microbatch of --ranks {} --microbatches {} without a sequence: "
              "--batch {} would work",
              s.batch, ranks, m, least);
    refuse_if(s.batch % m != 0, "--batch {} is no multiple of --microbatches {}: --batch {} would work",
              s.batch, m, (s.batch / m + 1) * m);
    refuse_if(no_prefetch && t.zero != 3,
              "--no-prefetch is for --stage 3: without --no-prefetch it would work");
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
