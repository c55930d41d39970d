// The program of lessons 08 and 13: from the command line to the run, its checks and its screen.
#pragma once

#include <filesystem>

#include "08_three_d/harness/command_line.hpp"
#include "08_three_d/harness/screen.hpp"

namespace tessera::three_d {

struct Program {
  LessonText text;
  Config s;                                               // the defaults of the flags
  void (*compose)(TrainingConfig&) = nullptr;             // plugs in lessons 09 to 12
  decltype(Composition::reference) of_experts = nullptr;  // the unsplit model's step with experts
  std::function<void(Flags&)> add_flags = [](Flags&) {};  // lesson 13's own
  std::function<void(Config&, Flags&)> settle = [](Config&, Flags&) {};  // before the ranks are counted
  /// Checks something before the run. Returns false where there is to be no run.
  std::function<bool(Proof&, Communicator&, const Config&)> before = [](auto&...) { return true; };
  std::function<std::string(const Options&)> more = [](const Options&) { return std::string(); };
};

/// Returns the exit code.
inline int run_program(int argc, char** argv, Program program) {
  Config& s = program.s;
  Arguments arguments;
  for (const char* path : {"README.md", "/usr/share/common-licenses/GPL-3"})
    if (std::filesystem::exists(path)) arguments.text = path;
  App app(program.text, App::own_ranks);
  program.add_flags(app.flags());
  add_flags(app, s, arguments);
  Grid grid;
  Compared compared;
  bool ran = false;

  const auto lesson = [&](Proof& proof, Communicator& world) {
    if (!program.before(proof, world, s)) return;
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
    grid = groups, compared = mine, ran = true;
    record(proof, s, grid, compared);
  };
  const auto check = [&](int) {
    apply_arguments(s, arguments, app.flags(), app.options());
    if (!arguments.tokens.empty()) arguments.text.clear();  // no text was read
    program.compose(s.training);
    if (s.training.model.experts > 0) s.training.parts.reference = program.of_experts;
  };
  const auto ranks = [&] {
    program.settle(s, app.flags());
    return ranks_of(s.sizes);
  };
  const auto more = [&] {
    const std::string own = program.more(app.options());
    if (!ran) return own;
    return text(grid, s.sizes) + load(compared, app.options()) + own +
           results(s, compared, app.options().stable);
  };
  return app.run(argc, argv,
                 {.ranks = ranks,
                  .check = check,
                  .prove = lesson,
                  .by_hand = [&] { return s.resumed + by_hand(s.sizes); },
                  .drawing = [&] { return drawing(compared, s.sizes); },
                  .more = more,
                  .inexact = gpt::inexact});
}

}  // namespace tessera::three_d
