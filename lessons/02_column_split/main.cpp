// Lesson 02: Y = X A + c, cut by columns.
#include "02_column_split/harness/proof.hpp"
#include "02_column_split/harness/screen.hpp"

using namespace tessera;
using namespace tessera::column_split;

int main(int argc, char** argv) {
  Sizes sizes;
  App app({"02", "column split", "Y = X A + c    X (N, W)  A (W, F) = [A1 A2 ...]  c (1, F)",
           "Why dX is a sum: all ranks used X.", format("column_split.hpp:{}", code_line)});
  sizes.add_flags(app);
  app.ranks_divide("--ffn", sizes.ffn);

  const auto lesson = [&](Proof& proof, Communicator& comm) {
    const TensorParallel tp(comm);
    const Built built = build(proof, sizes);                      // X, dY, this rank's columns of A and c
    const Step found = step(built.layer, built.x, built.dy, tp);  // forward and backward: column_split.hpp
    check(proof, sizes, built.layer, found);                      // against the unsplit layer
  };
  return app.run(argc, argv,
                 {.prove = lesson, .by_hand = by_hand, .picture = [&](int) { return picture(sizes); }});
}
