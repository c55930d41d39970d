// Lesson 01: an MLP on one device, forward and backward, and trained on real text.
#include <filesystem>

#include "01_mlp/harness/proof.hpp"
#include "01_mlp/harness/screen.hpp"

using namespace tessera;
using namespace tessera::mlp;

int main(int argc, char** argv) {
  Sizes sizes;
  TrainingConfig config;
  TrainingRun run;
  for (const char* path : {"README.md", "/usr/share/common-licenses/GPL-3"})
    if (std::filesystem::exists(path)) config.path = path;
  App app({"01", "MLP", "Y = f(X A + c1) B + c2    X (N, W)  A (W, F)  B (F, W)",
           "Why the backward needs no tape: each layer keeps its own Saved, and hands dX to the one before.",
           format("mlp.hpp:{}", code_line), "Code = formula?"},
          App::one_rank);
  sizes.add_flags(app);
  app.flags().text("--text", config.path, "FILE", "the text to train on");
  app.size("--steps", config.steps, "steps of training");

  const auto lesson = [&](Proof& proof, Communicator& comm) {
    {
      const Built built = build(proof, sizes);                  // X, dY and the MLP
      const Step found = step(built.model, built.x, built.dy);  // forward and backward: mlp.hpp
      check(proof, sizes, built.model, found);                  // against the formula
    }
    if (proof.exact()) return;
    TextModel model(proof.seed(), proof.dtype());
    const auto on_progress = progress_bar(comm, "training", config.steps);
    run = train(model, config, proof.seed(), on_progress);  // the training loop: training.hpp
    check_training(proof, model, config, run);
  };
  const auto more = [&] { return app.options().exact ? "" : text_of(config, run, app.options().stable); };
  return app.run(argc, argv,
                 {.check =
                      [&](int) {
                        config.text = read_text(config.path);
                        config.beats_entropy = config.steps >= 100 && !app.flags().given("--text");
                      },
                  .prove = lesson,
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(sizes); },
                  .more = more});
}
