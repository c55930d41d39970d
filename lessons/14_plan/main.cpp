// Lesson 14: what to use when, as a program. Read machine.hpp (what a machine can do), work.hpp (what a rank
// computes), estimate.hpp (memory, traffic and time of a cut) and search.hpp. ./tessera plan asks it; without
// a question it is held against published runs and against lesson 08's counters.
#include <cstring>

#include "14_plan/harness/command_line.hpp"
#include "14_plan/harness/proof.hpp"
#include "app/app.hpp"

using namespace tessera;
using namespace tessera::plan;

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "plan") == 0)  // ./tessera plan FLAGS
    return guarded([&] { return answer(argc - 1, argv + 1); });

  App app({"14", "plan", "time = products + passes + sends + bubble, of a cut of a model over machines",
           "Why a formula can be trusted: the bytes are counted, and the times are those of published runs.",
           format("estimate.hpp:{}", code_line), "Plan = run?"});
  const auto lesson = [](Proof& proof, Communicator& world) {
    check_counted(proof, world);                    // memory and bytes against lesson 08's counters
    if (world.rank() == 0) check_published(proof);  // times against published runs
  };
  const auto drawing = [] {
    const Question asked = published.front().question();
    return bars(search(asked, {}).best, asked);
  };
  return app.run(argc, argv,
                 {.prove = lesson,
                  .by_hand = [] { return "  ./tessera plan --help asks how to cut a model.\n"; },
                  .drawing = drawing,
                  .inexact = [] { return "a plan has no results to round"; }});
}
