// Lesson 06: the pipeline and its bubbles, predicted, drawn and measured. The lesson is schedule.hpp, which
// says what every stage does in which order, and worker.hpp, which does it. The files beside them read the
// same lists: messages.hpp finds which receive takes which send, validate.hpp whether a plan is legal,
// simulate.hpp how long it takes, and partition.hpp shares out the layers.
#include "06_pipeline/harness/compare.hpp"

using namespace tessera;
using namespace tessera::pipeline;

int main(int argc, char** argv) {
  Config config;
  Arguments arguments;
  config.chunks = 0;
  config.model.attention = {32, 4, 4, {.seq = 16}};
  App app(
      {"06", "pipeline",
       "the layers in p stages, a batch in m microbatches of n tokens of width W that follow one another",
       "Why a bubble: the last stage waits for the first activation, the first stage for the last gradient.",
       format("schedule.hpp:{}", code_line)});
  add_flags(app, config, arguments);
  Run shown;
  Comparison others;

  const auto lesson = [&](Proof& proof, Communicator& pp) {
    Config s = config;
    const Comparison beside = run_comparison(proof, pp, s, arguments);  // --compare, --partition balance

    const Plan plan = s.plan();  // what every stage does, in which order: schedule.hpp
    if (!s.blocking) check(plan, s.microbatches, s.chunks);  // no stage waits for ever: validate.hpp
    const Stage stage = build(proof, pp, s);                 // this stage's layers, and the microbatches
    Worker worker(pp, stage.tp, stage.chunks, s.model, proof.dtype());
    const Measured found = run_steps(worker, plan, pp, stage, s);  // forward and backward: worker.hpp
    check(proof, pp, s, stage, found);                             // against the unsplit model

    if (pp.rank() != 0) return;
    others = beside, shown = {s, found};
    record(proof, shown);
    if (app.options().stable) shown.measured.timeline = {};
  };
  return app.run(argc, argv,
                 {.check = [&](int ranks) { apply_arguments(config, arguments, ranks); },
                  .prove = lesson,
                  .by_hand = [&] { return by_hand(config); },
                  .drawing = [&] { return drawing(shown); },
                  .first = [&] { return report(shown, size_of(app.options().type())); },
                  .more = [&] { return text(others, shown); },
                  .inexact = gpt::inexact});
}
