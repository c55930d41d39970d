#include "02_column_split/column_split.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::column_split;

namespace {

/// The rank's layers, with its columns of A and of c.
struct Setup {
  Trial& t;
  int n = t.size(), k = t.size(), f = t.cut();
  ByHand by_hand{t.in<Shard<1>>("A", k, f).local(), t.in<Shard<1>>("c", 1, f).local()};
  ColumnParallelLinear typed{by_hand.a, by_hand.c};
  ColumnParallelLinear::Saved saved;
};

const RankTask forward("02.forward", [](Trial& t) {
  Setup s{t};
  s.by_hand.forward(t.in("X", s.n, s.k), t.comm());
  t.out("y", "Y = [X A1, X A2] + c", s.by_hand.y);
  t.mistake("y", "y lacks the bias.", [&] { return add_bias(s.by_hand.y, scale(t.in("c", 1, s.f), -1)); });
});

const RankTask backward("02.backward", [](Trial& t) {
  Setup s{t};
  s.by_hand.backward(t.in("dY", s.n, s.f), t.in("X", s.n, s.k), t.comm());
  t.out("dx", "dX = dY1 A1' + dY2 A2'", s.by_hand.dx);
  t.out<Shard<1>>("da", "dA = [X' dY1, X' dY2]", s.by_hand.da);
  t.out<Shard<1>>("dc", "dc = [sum dY1, sum dY2]", s.by_hand.dc);
});

const RankTask typed_forward("02.typed_forward", [](Trial& t) {
  Setup s{t};
  t.out("y", "Y_i = X A_i + c_i", s.typed.forward(t.in<Replicated>("X", s.n, s.k), s.saved));
  t.out("saved.x", "X, kept for the backward", s.saved.x);
});

const RankTask typed_backward("02.typed_backward", [](Trial& t) {
  Setup s{t};
  s.saved.x = t.in<Replicated>("X", s.n, s.k);
  t.out("dx", "dX = dY1 A1' + dY2 A2'",
        s.typed.backward_input(t.in<Shard<1>>("dY", s.n, s.f), s.saved, t.tp()));
  t.out("saved.dy", "dY_i, kept for the weights", s.saved.dy);
});

const RankTask typed_weight("02.typed_weight", [](Trial& t) {
  Setup s{t};
  s.saved = {t.in<Replicated>("X", s.n, s.k), t.in<Shard<1>>("dY", s.n, s.f)};
  for (int batch = 0; batch < 2; ++batch)
    s.typed.backward_weight(s.saved);  // gradients of microbatches add up
  t.out("da", "dA_i += X' dY_i, twice", s.typed.da);
  t.out("dc", "dc_i += sum dY_i, twice", s.typed.dc);
});

const RankTask fewest("02.cheapest", [](Trial& t) {
  const auto [n, k] = t.unequal();  // either of Y and A is the smaller one
  t.out("y", "Y = X [A1, A2]", cheapest(t.in("X", n, k), t.in<Shard<1>>("A", k, t.cut()).local(), t.comm()));
});

}  // namespace
