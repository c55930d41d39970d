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
    prove(proof, comm, sizes);  // forward and backward (column_split.hpp), against the unsplit layer
  };
  return app.run(argc, argv,
                 {.prove = lesson, .by_hand = by_hand, .picture = [&](int) { return picture(sizes); }});
}
