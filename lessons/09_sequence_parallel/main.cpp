// Lesson 09: sequence parallelism, the transformer block with its norms and residual sums cut by tokens. The
// lesson is sequence_parallel.hpp; parts.hpp is how lesson 08 uses it.
#include "09_sequence_parallel/harness/screen.hpp"

using namespace tessera;
using namespace tessera::sequence_parallel;

int main(int argc, char** argv) {
  Config c{{{96, 24, 0, {.batch = 2, .seq = 24}}, Part::block}};
  App app(
      {"09", "sequence parallel",
       "X (N, W) = [X1; X2; ...] by tokens    all_gather before the columns, reduce_scatter behind the rows",
       "Why Partial: a norm's weights and a late bias have seen the rank's own tokens, and the sum is owed "
       "once a step.",
       format("sequence_parallel.hpp:{}", code_line)});
  attention_heads::add_flags(app, c.sizes);
  app.flags().toggle("--regather", c.regather, "keep a rank's tokens of X only, and gather X again for dA");

  Compared compared;
  const auto lesson = [&](Proof& proof, Communicator& comm) {
    const Compared found = prove(proof, comm, c);  // this lesson's block, then lesson 05's: harness/proof.hpp
    record(proof, found);
    if (comm.rank() == 0 && !proof.exact()) compared = found;
  };
  return app.run(argc, argv,
                 {.check = [&](int ranks) { check_sizes(c.sizes, app.options(), ranks); },
                  .prove = lesson,
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(c); },
                  .more = [&] { return app.options().exact ? "" : beside(compared, c.regather); },
                  .inexact = [&] { return inexact(c.sizes.part); }});
}
