// Lesson 11: context parallelism, attention over tokens that are cut. The lesson is context_parallel.hpp;
// exchange.hpp says who has which tokens and who brings the others' keys, ulysses.hpp is the third way.
#include "11_context_parallel/harness/screen.hpp"

using namespace tessera;
using namespace tessera::context_parallel;

int main(int argc, char** argv) {
  Config c;
  c.shape() = {96, 12, 4, {.batch = 2, .seq = 48}};
  bool compared = false;
  int ranks = 1;
  App app(
      {"11", "context parallel",
       "o = o1 e^(lse1 - lse) + o2 e^(lse2 - lse)    lse = log(e^lse1 + e^lse2)    [X1; X2; ...] by tokens",
       "Why pieces: a softmax keeps one number of the keys that it has seen, and two such states merge.",
       format("exchange.hpp:{}", code_line)});
  add_flags(app, c);
  app.flags().toggle("--compare", compared, "which way sends least: a table by formula");
  std::vector<std::int64_t> work;
  const auto lesson = [&](Proof& proof, Communicator& cp) {
    const auto found = prove(proof, cp, c);  // against lesson 05: harness/proof.hpp
    if (cp.rank() == 0) work = found;
  };
  const auto more = [&] {
    return work.empty() ? ""
                        : work_table(work, c) + (compared ? compare(c, size_of(app.options().type())) : "");
  };
  return app.run(argc, argv,
                 {.check = [&](int p) { check_sizes(c, ranks = p); },
                  .prove = lesson,
                  .by_hand = by_hand,
                  .drawing = [&] { return drawing(c, ranks); },
                  .more = more,
                  .inexact = [] { return "a softmax is exact nowhere; lesson 05 has the projections"; }});
}
