// Lesson 04: the MLP block, columns then rows, one all-reduce in the forward and one in the backward.
#include "04_mlp_block/harness/proof.hpp"
#include "04_mlp_block/harness/screen.hpp"

using namespace tessera;
using namespace tessera::mlp_block;

int main(int argc, char** argv) {
  Sizes sizes;
  Activation f = Activation::gelu;
  App app({"04", "MLP block",
           "Y = f(X A + c1) B + c2    X (N, W)  A (W, F) = [A1 A2 ...]  B (F, W) = [B1; B2; ...]",
           "Why columns first: f of a column needs that column only; f of a term of a sum would be wrong.",
           format("mlp_block.hpp:{}", code_line)});
  sizes.add_flags(app);
  app.flags().choice("--activation", f, {{Activation::gelu, "gelu"}, {Activation::relu, "relu"}},
                     "f; the exact tier takes relu");
  app.ranks_divide("--ffn", sizes.ffn);
  app.ranks_divide("--width", sizes.width);  // the plain way cuts B by columns

  const auto lesson = [&](Proof& proof, Communicator& comm) {
    const TensorParallel tp(comm);
    const Built built = build(proof, sizes, f);                   // X, dY, this rank's slices of the weights
    const auto found = step(built.block, built.x, built.dy, tp);  // forward and backward: mlp_block.hpp

    const MemoryScope beside(MemoryKind::check);  // the plain way is no part of the block's memory
    const AllGatherMlp plain = build_plain(proof, built.block);
    const auto gathered = step(plain, broadcast_x(built.x, tp), built.dy, tp, "plain-");
    check(proof, sizes, built.block, found);  // both against the unsplit MLP of lesson 01
    check_plain(proof, sizes, plain, gathered);
  };
  return app.run(argc, argv,
                 {.prove = lesson,
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(sizes); },
                  .more = [&] { return counterexample() + why_cut(sizes); }});
}
