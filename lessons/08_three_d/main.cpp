// Lesson 08: tensor, pipeline and data parallelism combined, training a GPT on text.
#include <unistd.h>

#include <filesystem>
#include <iostream>

#include "08_three_d/harness/command_line.hpp"
#include "08_three_d/harness/screen.hpp"
#include "app/app.hpp"

using namespace tessera;
using namespace tessera::three_d;

namespace {

int run_lesson(int argc, char** argv) {
  Config s;
  Arguments arguments;
  ModelConfig& m = s.training.model;
  m = {{32, 4, 4, {}}, 4, 256, 1, true};
  m.attention.options.seq = 32;
  for (const char* path : {"README.md", "/usr/share/common-licenses/GPL-3"})
    if (std::filesystem::exists(path)) arguments.text = path;
  App app({"08", "three dimensions",
           "tp cuts columns and heads, pp layers, dp the batch; one GPT-2, head tied to the embedding",
           "Why all three: tp is limited by heads and links, pp by layers and its bubble, dp by the batch; "
           "their product is not.",
           format("train.hpp:{}", code_line)},
          App::own_ranks);
  for (const auto& [flag, size, help] : {std::tuple{"--tp", &arguments.tp, "ranks that share each layer"},
                                         {"--pp", &arguments.pp, "stages of layers"},
                                         {"--dp", &arguments.dp, "replicas"}})
    app.flags().number(flag, *size, 1, 64, help);
  app.flags().number("--steps", s.steps, 0, 1 << 20, "of training, with those that --resume has done");
  app.size("--batch", s.batch, "sequences of a step");
  app.size("--microbatches", arguments.microbatches, "m, of each replica");
  app.flags().choice("--schedule", arguments.schedule, {"gpipe", "1f1b", "interleaved", "zb-h1"},
                     "of the pipeline");
  app.flags().text("--text", arguments.text, "FILE", "what to train on: bytes are tokens");
  app.flags().text("--tokens", arguments.tokens, "FILE",
                   "instead: uint16 ids, as nanoGPT and llm.c keep them");
  app.flags().choice("--token-bytes", arguments.token_bytes, {"auto", "2", "4", "8"},
                     "of each id; auto: 2, or as llm.c's header says");
  app.flags().number("--vocab", arguments.vocabulary, 1, 65536, "ids that there are");
  app.flags().text("--weights", arguments.weights, "FILE",
                   "begin as a GPT-2 with Hugging Face's names; its sizes");
  app.flags().toggle("--eval", s.eval, "no training: the loss over the whole text");
  app.flags().number("--sample", s.sample, 0, 1 << 20, "tokens to write in the end");
  app.flags().real("--temperature", s.temperature, 0, 100, "of the sampling; 0 takes the likeliest");
  app.size("--layers", m.layers, "blocks");
  app.size("--width", m.attention.width, "W");
  app.size("--heads", m.attention.heads, "heads of W / heads columns");
  app.size("--seq", m.attention.options.seq, "tokens of a sequence");
  app.flags().number("--chunks", arguments.chunks, 0, 64,
                     "of a stage, for interleaved; 0: two there, else one");
  app.flags().choice("--optimizer", arguments.optimizer, {"sgd", "adamw"}, "sgd has momentum 0.9");
  app.flags().text("--save", s.save, "DIR", "write checkpoints there: whole tensors, GPT-2's names");
  app.flags().number("--every", s.every, 0, 1 << 20, "steps between checkpoints; 0: the one at the end");
  app.flags().text("--resume", s.resume, "DIR", "go on from the checkpoint there, under any cut");
  app.flags().real("--lr", s.training.lr, 0, 1e3, "learning rate");
  app.flags().real("--clip", s.training.clip, 0, 1e9, "largest norm of the gradients; 0: any");
  app.flags().size("--bucket", s.training.bucket, "of gradients that are summed over dp in one call");
  Grid grid;
  Compared compared;
  const bool bar = isatty(STDERR_FILENO) == 1;
  const auto lesson = [&](Proof& proof, Communicator& world) {
    const auto on_progress = [&, began = world.journal().now()](std::int64_t done) {
      const double seconds = world.journal().now() - began;
      if (world.rank() == 0 && bar && seconds > 2)
        std::cerr << progress_line(s.eval ? "reading" : "training", done,
                                   s.eval ? own_forwards(s, 0) : s.steps, seconds)
                  << std::flush;
    };
    const Grid groups = gather_groups(world, s.sizes);

    const Mesh mesh(world, s.sizes);                                       // this rank's tp, pp and dp groups
    if (!s.eval) check_first_step(proof, mesh, s);                         // against the unsplit model
    Trainer trainer = make_trainer(mesh, s, proof.dtype(), proof.seed());  // this rank's slices of the model
    if (s.eval) check_weights(proof, trainer, s);
    const Results found = run(world, trainer, s, proof.seed(), on_progress);  // the training loop: train.hpp
    const Compared mine = check_run(proof, world, trainer, s, found);         // against the unsplit run

    if (world.rank() != 0) return;
    grid = groups, compared = mine;
    for (const auto& [axis, of] : {std::pair{"tp", grid.tp}, {"pp", grid.pp}, {"dp", grid.dp}})
      proof.record(format("groups.{}", axis), of);
    record(proof, s, compared);
  };
  const auto more = [&] { return text(grid, s.sizes) + results(s, compared, app.options().stable); };
  return app.run(
      argc, argv,
      {.ranks = [&] { return ranks_of(arguments); },
       .check = [&](int) { apply_arguments(s, arguments, app.flags(), app.options()); },
       .prove = lesson,
       .by_hand =
           [&] {
             return s.resumed +
                    "  rank = tp index + tp (dp index + dp stage): neighbours in tp are neighbours in the "
                    "machine.\n";
           },
       .picture = {},
       .drawing =
           [&] {
             return drawing(compared.run.losses, compared.reference.losses,
                            format("tp {} x pp {} x dp {}", arguments.tp, arguments.pp, arguments.dp));
           },
       .more = more,
       .inexact = [] { return "a transformer block is exact nowhere: lessons 01 to 05 have it"; }});
}

}  // namespace

int main(int argc, char** argv) {
  return guarded([&] { return run_lesson(argc, argv); });
}
