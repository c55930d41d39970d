// Lesson 05: attention cut by heads, and the transformer block.
#include "05_attention_heads/harness/proof.hpp"
#include "05_attention_heads/harness/screen.hpp"

using namespace tessera;
using namespace tessera::attention_heads;

int main(int argc, char** argv) {
  Sizes s{{96, 12, 0, {.batch = 2, .seq = 24}}};
  int ranks = 1;
  App app({"05", "attention by head",
           "Y = [head_1 head_2 ...] Wo + c    head = softmax(q k' / sqrt(d)) v    [Q K V] = X Wqkv + b",
           "Why heads: a head needs its own columns of Q, K and V only, as f needed one column. The rest is "
           "lesson 04.",
           format("attention_heads.hpp:{}", code_line)});
  add_flags(app, s);

  const auto lesson = [&](Proof& proof, Communicator& comm) {
    const TensorParallel tp(comm);
    with_layer_type(s, comm.size(), [&]<class Layer>(std::type_identity<Layer>) {
      const auto built = build<Layer>(proof, comm, s);                         // X, dY, this rank's heads
      const auto found = mlp_block::step(built.layer, built.x, built.dy, tp);  // forward, backward: lesson 04
      check(proof, comm, s, built.layer, found);                               // against the unsplit layer
    });
  };
  return app.run(argc, argv,
                 {.check = [&](int p) { set_sizes(s, app.options(), ranks = p); },
                  .prove = lesson,
                  .by_hand = by_hand,
                  .picture = [&](int p) { return picture(s, p); },
                  .more = [&] { return s.trap_qkv ? trap_table(s, ranks) : ""; },
                  .inexact = [&] { return inexact(s.part); }});
}
