// Lesson 06: the pipeline and its bubbles, predicted, drawn and measured.
#include <optional>
#include <thread>

#include "06_pipeline/harness/command_line.hpp"
#include "06_pipeline/harness/compare.hpp"
#include "app/app.hpp"

using namespace tessera;
using namespace tessera::pipeline;

namespace {

/// Every line of the text moved to the right.
std::string indented(const std::string& text, std::size_t by) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    out += std::string(by, ' ') + text.substr(at, end - at);
    at = end;
  }
  return out;
}

std::string by_hand() {
  return "  By hand: two stages, two microbatches, a backward as long as two forwards\n" +
         indented(draw(simulate(make_plan(Schedule::gpipe, 2, 2), Costs::equal(2, 1, 1, 1)), "gpipe", 1), 4) +
         "  Stage 1 waits for the first activation, stage 0 for the first gradient: 3 of 9 each.\n";
}

}  // namespace

int main(int argc, char** argv) {
  Config setup;
  Arguments arguments;
  ModelConfig& m = setup.model;
  m.attention = {32, 4, 4, {}};
  m.attention.options.seq = 16;
  App app(
      {"06", "pipeline",
       "the layers in p stages, a batch in m microbatches of n tokens of width W that follow one another",
       "Why a bubble: the last stage waits for the first activation, the first stage for the last gradient.",
       format("schedule.hpp:{}", code_line)});
  app.flags().number("--microbatches", arguments.microbatches, 1, 1024, "m, parts of the batch");
  app.size("--batch", arguments.batch, "sequences of a step");
  app.flags().number("--layers", m.layers, 1, 1024, "blocks of the whole model");
  app.flags().choice("--schedule", arguments.schedule, {"gpipe", "1f1b", "interleaved", "zb-h1"},
                     "who does what when");
  app.flags().text("--pace", arguments.pace, "5ms", "a stage's forward takes this long, dX and dW as well");
  app.flags().toggle("--compare", arguments.compare, "all schedules in one table");
  app.flags().number("--chunks", arguments.chunks, 0, 64,
                     "of a stage, for interleaved; 0: two there, else one");
  app.flags().text("--partition", arguments.partition, "3,2,2,1", "layers of each stage, or balance");
  app.flags().toggle("--recompute", setup.recompute, "keep a stage's input alone, run its forward again");
  app.flags().toggle("--blocking", setup.blocking, "wait for each send at once, as a beginner would");
  app.size("--seq", m.attention.options.seq, "tokens of a sequence");
  app.size("--width", m.attention.width, "W");
  app.size("--heads", m.attention.heads, "heads of W / heads columns");
  app.size("--vocab", m.vocabulary, "ids");
  int stages = 1;
  Run main_run;
  std::vector<Run> others;
  std::vector<std::string> left_out;
  std::optional<Balance> balance;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const auto prove_all = [&](Proof& proof, Communicator& comm) {
    Run run{setup, {}};
    std::vector<Run> all;
    std::vector<std::string> missing;
    if (arguments.compare) all = run_all(proof, comm, setup, missing);
    std::optional<Balance> even;
    if (arguments.partition == "balance") even = balance_stages(proof, comm, run.setup);
    run.measured = prove(proof, comm, run.setup);
    if (comm.rank() != 0) return;
    proof.claim("in flight = the formula", in_flight_excess(run), 0,
                "a stage holds more microbatches than its schedule says");
    if (!setup.blocking)
      proof.claim("simulated bubble = the formula", bubble_excess(run), 1e-9,
                  "the lists idle longer than the schedule must: is the warm-up too short?");
    record(proof, run);
    main_run = run, others = all, left_out = missing, balance = even;
  };
  const auto more = [&] {
    const bool stable = app.options().stable;
    return (balance ? balanced(*balance, main_run, stable) + "\n" : "") +
           (arguments.compare ? compare(others, left_out, stable) + "\n" : "") +
           "Try --microbatches 32 --batch 32, --pace 5ms --compare, --partition balance --vocab 2048\n";
  };
  return app.run(
      argc, argv,
      {.check = [&](int ranks) { apply_arguments(setup, arguments, ranks), stages = ranks; },
       .prove = prove_all,
       .by_hand = [&] { return by_hand() + (setup.blocking ? warning(setup, stages) : ""); },
       .drawing = [&] { return drawing(main_run, app.options().stable); },
       .first = [&] { return report(main_run, cores, size_of(app.options().type()), app.options().stable); },
       .more = more,
       .inexact = [] { return "a transformer block is exact nowhere: lessons 01 to 05 have it"; }});
}
