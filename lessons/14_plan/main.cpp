// Lesson 14: what to use when, as a program. Read machine.hpp (what a machine can do), work.hpp (what a rank
// computes), estimate.hpp (memory, traffic and time of a cut) and search.hpp. ./tessera plan asks it; without
// a question it is held against published runs and against lesson 08's counters.
#include <cstring>
#include <iostream>

#include "14_plan/harness/screen.hpp"
#include "app/app.hpp"

using namespace tessera;
using namespace tessera::plan;

/// ./tessera plan FLAGS
int answer(int argc, char** argv) {
  Request asked;
  Arguments arguments;
  Flags flags("14 plan: how to cut a model over GPUs, and what each cut costs");
  add_flags(flags, asked, arguments);
  if (!flags.parse(argc, argv)) return 0;
  int code = 0;
  flags.advise([&] {
    const Fixed fixed = apply(flags, asked, arguments);
    const Answer found = search(asked, fixed);
    if (found.tried == 0) throw UsageError(found.impossible);
    std::cout << screen(found, asked, arguments);
    code = found.best.empty() ? 1 : 0;
  });
  return code;
}

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "ask") == 0) return guarded([&] { return answer(argc - 1, argv + 1); });
  return 0;
}
