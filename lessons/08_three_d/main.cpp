// Lesson 08: tensor, pipeline and data parallelism combined, training a GPT on text. Read mesh.hpp (which
// ranks communicate), trainer.hpp (one step) and train.hpp (the loop). Lessons 09 to 12 plug in by use_in.
#include <filesystem>

#include "08_three_d/harness/command_line.hpp"
#include "08_three_d/harness/screen.hpp"
#include "09_sequence_parallel/parts.hpp"
#include "10_zero/sharded_optimizer.hpp"
#include "11_context_parallel/parts.hpp"
#include "12_experts/harness/reference.hpp"
#include "12_experts/parts.hpp"

using namespace tessera;
using namespace tessera::three_d;

int main(int argc, char** argv) {
  Config s;
  Arguments arguments;
  s.training.microbatches = 4, s.training.chunks = 0;
  s.training.model = {{32, 4, 4, {}}, 4, 256, 1, true};
  s.training.model.attention.options.seq = 32;
  for (const char* path : {"README.md", "/usr/share/common-licenses/GPL-3"})
    if (std::filesystem::exists(path)) arguments.text = path;
  App app({"08", "three dimensions",
           "tp cuts columns and heads, pp layers, dp the batch; one GPT-2, head tied to the embedding",
           "Why all three: tp is limited by heads and links, pp by layers and its bubble, dp by the batch; "
           "their product is not.",
           format("train.hpp:{}", code_line)},
          App::own_ranks);
  add_flags(app, s, arguments);
  Grid grid;
  Compared compared;

  const auto lesson = [&](Proof& proof, Communicator& world) {
    const auto on_progress =
        progress_bar(world, s.eval ? "reading" : "training", s.eval ? own_forwards(s) : s.steps);
    const Mesh mesh(world, s.sizes);  // this rank's process groups
    const Grid groups = gather_groups(world, mesh);
    if (!s.eval) check_first_step(proof, mesh, s);                         // against the unsplit model
    Trainer trainer = make_trainer(mesh, s, proof.dtype(), proof.seed());  // this rank's slices of the model
    if (s.eval) check_weights(proof, trainer, s);
    const Results found = run(world, trainer, s, proof.seed(), on_progress);  // the training loop: train.hpp
    const Compared mine = check_run(proof, world, trainer, s, found);         // against the unsplit run

    if (world.rank() != 0) return;
    grid = groups, compared = mine;
    record(proof, s, grid, compared);
  };
  return app.run(argc, argv,
                 {.ranks = [&] { return ranks_of(s.sizes); },
                  .check =
                      [&](int) {
                        apply_arguments(s, arguments, app.flags(), app.options());
                        if (!arguments.tokens.empty()) arguments.text.clear();  // nothing was read there
                        const ModelConfig& m = s.training.model;
                        if (m.sequence_parallel) sequence_parallel::use_in(s.training, m.regather);
                        if (m.experts > 0)
                          experts::use_in(s.training), s.training.parts.reference = experts::reference_step;
                        if (m.cp > 1) context_parallel::use_in(s.training, m.cp, m.way, m.zigzag);
                        zero::use_in(s.training, s.training.zero);
                      },
                  .prove = lesson,
                  .by_hand = [&] { return s.resumed + by_hand(s.sizes); },
                  .picture = {},
                  .drawing = [&] { return drawing(compared, s.sizes); },
                  .more =
                      [&] {
                        return text(grid, s.sizes) + load(compared, app.options()) +
                               results(s, compared, app.options().stable);
                      },
                  .inexact = gpt::inexact});
}
