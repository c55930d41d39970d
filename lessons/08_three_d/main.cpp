// Lesson 08: tensor, pipeline and data parallelism combined, training a GPT on text.
#include <unistd.h>

#include <filesystem>
#include <iostream>

#include "08_three_d/screen.hpp"
#include "app/app.hpp"

using namespace tessera;
using namespace tessera::three_d;

namespace {

std::string divisors(std::int64_t n, std::int64_t most) {
  std::string text;
  for (std::int64_t d = 1; d <= std::min(n, most); ++d)
    if (n % d == 0) text += str(text.empty() ? "" : ", ", d);
  return text;
}

struct Words {
  std::string schedule = "1f1b", optimizer = "sgd", path = "README.md";
  std::int64_t tp = 2, pp = 2, dp = 2, microbatches = 4, chunks = 0;
};

/// Everything that can be wrong with the command line, before anything runs.
void choose(Setup& s, const Words& words) {
  Model& m = s.training.model;
  s.sizes = {static_cast<int>(words.tp), static_cast<int>(words.pp), static_cast<int>(words.dp)};
  if (m.width() % m.attention.heads != 0)
    throw UsageError(str("--heads ", m.attention.heads, " does not divide --width ", m.width(), ": --heads ",
                         divisors(m.width(), 64), " would work"));
  if (m.attention.heads % words.tp != 0)
    throw UsageError(str("--tp ", words.tp, " does not divide the ", m.attention.heads, " heads: --tp ",
                         divisors(m.attention.heads, 64), " would work"));
  for (const auto& [schedule, name] : pipeline::schedule_names)
    if (name == words.schedule) s.training.schedule = schedule;
  const bool interleaved = s.training.schedule == pipeline::Schedule::interleaved;
  s.training.chunks = words.chunks > 0 ? static_cast<int>(words.chunks) : interleaved && words.pp > 1 ? 2 : 1;
  s.training.microbatches = static_cast<int>(words.microbatches);
  pipeline::refuse_impossible(s.training.schedule, s.sizes.pp, s.training.microbatches, s.training.chunks);
  if (m.layers < words.pp * s.training.chunks)
    throw UsageError(str("--layers ", m.layers, " cannot fill ", words.pp * s.training.chunks,
                         " virtual stages: --layers ", words.pp * s.training.chunks, " or more would work"));
  if (const std::int64_t parts = words.dp * words.microbatches; s.batch % parts != 0)
    throw UsageError(str("--batch ", s.batch, " cannot be shared out over ", words.dp, " replicas of ",
                         words.microbatches, " microbatches: --batch ", (s.batch / parts + 1) * parts,
                         " would work"));
  s.training.adamw = words.optimizer == "adamw";
  m.attention.kv_heads = m.attention.heads;
  m.attention.options.batch = s.batch / (words.dp * words.microbatches);
  m.tokens = s.batch * s.seq();
  s.text = mlp::read_text(words.path);
  if (static_cast<std::int64_t>(s.text.size()) <= s.seq())
    throw UsageError(str("--text ", words.path, ": ", s.text.size(),
                         " bytes are less than a sequence: --seq ", s.text.size() - 1,
                         " or less would work"));
}

}  // namespace

int main(int argc, char** argv) {
  Setup s;
  Words words;
  Model& m = s.training.model;
  m = {{32, 4, 4, {}}, 4, 256, 1, true};
  m.attention.options.seq = 32;
  for (const char* path : {"README.md", "/usr/share/common-licenses/GPL-3"})
    if (std::filesystem::exists(path)) words.path = path;
  App app({"08", "three dimensions",
           "tp cuts columns and heads, pp layers, dp the batch; one GPT-2, head tied to the embedding",
           "Why all three: tp is limited by heads and links, pp by layers and its bubble, dp by the batch; "
           "their product is not.",
           "trainer.hpp:55"},
          App::own_ranks);
  for (const auto& [flag, size, help] : {std::tuple{"--tp", &words.tp, "ranks that share each layer"},
                                         {"--pp", &words.pp, "stages of layers"},
                                         {"--dp", &words.dp, "replicas"}})
    app.flags().number(flag, *size, 1, 64, help);
  app.flags().number("--steps", s.steps, 0, 1 << 20, "of training");
  app.size("--batch", s.batch, "sequences of a step");
  app.size("--microbatches", words.microbatches, "m, of each replica");
  app.flags().choice("--schedule", words.schedule, {"gpipe", "1f1b", "interleaved", "zb-h1"},
                     "of the pipeline");
  app.flags().text("--text", words.path, "FILE", "what to train on: bytes are tokens");
  app.size("--layers", m.layers, "blocks");
  app.size("--width", m.attention.width, "W");
  app.size("--heads", m.attention.heads, "heads of W / heads columns");
  app.size("--seq", m.attention.options.seq, "tokens of a sequence");
  app.flags().number("--chunks", words.chunks, 0, 64, "of a stage, for interleaved; 0: two there, else one");
  app.flags().choice("--optimizer", words.optimizer, {"sgd", "adamw"}, "sgd has momentum 0.9");
  app.flags().text("--save", s.save, "DIR", "write checkpoints there: whole tensors, GPT-2's names");
  app.flags().number("--every", s.every, 0, 1 << 20, "steps between checkpoints; 0: one at the end");
  app.flags().text("--resume", s.resume, "DIR", "go on from the checkpoint there, under any cut");
  app.flags().real("--lr", s.training.lr, 0, 1e3, "learning rate");
  app.flags().real("--clip", s.training.clip, 0, 1e9, "largest norm of the gradients; 0: any");
  Grid grid;
  Trained trained;
  const bool bar = isatty(STDERR_FILENO) == 1;
  const auto prove_all = [&](Proof& proof, Communicator& world) {
    const Grid groups = gather_groups(world, s.sizes);
    const double began = world.journal().now();
    const Trained mine = prove(proof, world, s, [&](std::int64_t step) {
      const double seconds = world.journal().now() - began;
      if (bar && seconds > 2)
        std::cerr << progress_line("training", step + 1, s.steps, seconds) << std::flush;
    });
    if (world.rank() != 0) return;
    grid = groups, trained = mine;
    proof.record("groups", nlohmann::json{{"tp", grid.tp}, {"pp", grid.pp}, {"dp", grid.dp}}.dump());
    proof.record("loss", trained.losses);
    proof.record("baseline_loss", trained.unsplit);
    proof.record("tokens_per_second", nlohmann::json(trained.tokens_per_second).dump());
  };
  const auto more = [&] {
    std::string out = text(grid, s.sizes);
    if (app.options().stable) return out;
    out += "\n" + plot(trained.losses, trained.unsplit);
    if (s.steps > 0)
      out += str("  loss ", number(trained.losses.front()), " to ", number(trained.losses.back()), " in ",
                 s.steps, " steps, ", number(std::round(trained.tokens_per_second)), " tokens a second\n");
    return out;
  };
  return app.run(
      argc, argv,
      {.ranks = [&] { return static_cast<int>(words.tp * words.pp * words.dp); },
       .check = [&](int) { choose(s, words); },
       .prove = prove_all,
       .by_hand =
           [] {
             return std::string(
                 "  rank = tp index + tp (dp index + dp stage): neighbours in tp are neighbours in the "
                 "machine.\n");
           },
       .picture = {},
       .drawing =
           [&] {
             return drawing(trained.losses, trained.unsplit,
                            str("tp ", words.tp, " x pp ", words.pp, " x dp ", words.dp));
           },
       .more = more,
       .inexact = [] { return "a transformer block is exact nowhere: lessons 01 to 05 have it"; }});
}
