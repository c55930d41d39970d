// Lesson 03: Y = X A + c, X cut by columns and A by rows.
#include "03_row_split/harness/proof.hpp"
#include "03_row_split/harness/screen.hpp"

using namespace tessera;
using namespace tessera::row_split;

int main(int argc, char** argv) {
  Sizes sizes;
  App app({"03", "row split", "Y = X A + c    X (N, F) = [X1 X2 ...]  A (F, W) = [A1; A2; ...]  c (1, W)",
           "Why dX sends nothing: dY is whole on every rank, and X_i was used by rank i alone.",
           format("row_split.hpp:{}", code_line)});
  sizes.add_flags(app);
  app.ranks_divide("--ffn", sizes.ffn);
  app.ranks_divide("--tokens", sizes.tokens);  // the reduce-scatter leaves each rank its tokens

  const auto lesson = [&](Proof& proof, Communicator& comm) {
    const TensorParallel tp(comm);
    const Built built = build(proof, sizes);                      // this rank's X and rows of A; dY, c
    const Step found = step(built.layer, built.x, built.dy, tp);  // forward and backward: row_split.hpp

    const MemoryScope beside(MemoryKind::check);  // the other form is no part of the layer's memory
    const ScatteredStep scattered = step_scattered(built.layer, built.x, built.dy, tp);
    check(proof, sizes, built.layer, found, scattered);  // against the unsplit layer
  };
  return app.run(argc, argv,
                 {.prove = lesson, .by_hand = by_hand, .picture = [&](int) { return picture(sizes); }});
}
