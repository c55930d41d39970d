// Lesson 12: experts. The lesson is router.hpp (who computes a token) and experts.hpp (how it gets there);
// parts.hpp puts experts into lesson 08's blocks.
#include "12_experts/harness/screen.hpp"

using namespace tessera;
using namespace tessera::experts;

int main(int argc, char** argv) {
  Config c;
  std::optional<Choices> choices;
  App app(
      {"12", "experts", "Y = D' diag(g) E(D X)    g = P of the chosen of E experts    P = softmax(X Wr)",
       "Why rows travel: tokens of every rank need an expert, and its weights are larger than their rows.",
       format("experts.hpp:{}", code_line)});
  add_flags(app, c);
  const auto lesson = [&](Proof& proof, Communicator& world) {
    Choices made = prove(proof, world, c);  // against the definition: harness/proof.hpp
    if (world.rank() == 0) choices.emplace(std::move(made));
  };
  return app.run(
      argc, argv,
      {.check = [&](int ranks) { check_sizes(c, ranks, app.options()); },
       .prove = lesson,
       .by_hand = by_hand,
       .drawing = drawing,
       .more = [&] { return choices ? load(*choices) : ""; },
       .inexact = [] { return "a softmax is exact nowhere; lesson 01 has an expert's products"; }});
}
