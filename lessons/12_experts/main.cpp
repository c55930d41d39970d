// Lesson 12: experts. The lesson is router.hpp (who computes a token) and experts.hpp (how it gets there);
// parts.hpp puts experts into lesson 08's blocks.
#include "12_experts/harness/screen.hpp"

using namespace tessera;
using namespace tessera::experts;

int main(int argc, char** argv) {
  Config c;
  int ranks = 1;
  Tensor probabilities;
  App app({"12", "experts",
           "Y = P' diag(g) E(P X)    g = p of the chosen k of E experts    p = softmax(X Wr)",
           "Why rows travel: a rank's experts are needed by tokens of every rank, and weights are larger "
           "than rows.",
           format("experts.hpp:{}", code_line)});
  add_flags(app, c);
  return app.run(
      argc, argv,
      {.check = [&](int p) { check_sizes(c, ranks = p); },
       .prove =
           [&](Proof& proof, Communicator& world) {
             const Tensor p = prove(proof, world, c);  // against the definition: harness/proof.hpp
             if (world.rank() == 0) probabilities = p;
           },
       .by_hand = by_hand,
       .drawing = drawing,
       .more = [&] { return probabilities.defined() ? load(probabilities, c, ranks) : ""; },
       .inexact = [] { return "a softmax is exact nowhere; lesson 01 has an expert's products"; }});
}
