#include "03_row_split/row_split.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::row_split;

namespace {

/// The rank's layers, with its columns of X, its rows of A, and the whole c and dY.
struct Setup {
  Trial& t;
  int n = t.cut(), f = t.cut(), k = t.size();
  Placed<Shard<1>> x = t.in<Shard<1>>("X", n, f);
  Placed<Replicated> dy = t.in<Replicated>("dY", n, k);
  ByHand by_hand{t.in<Shard<0>>("A", f, k).local(), t.in("c", 1, k)};
  RowParallelLinear typed{by_hand.a, by_hand.c};
  RowParallelLinear::Saved saved;
};

/// Y, and what it would be with c added by every rank before the sum, or by none.
template <class P>
void out_y(Trial& t, const char* identity, const Placed<P>& y, const Tensor& c) {
  t.out("y", identity, y);
  t.mistake<P>("y", "y holds the bias p times: was it added before the sum?",
               [&] { return add_bias(y.local(), scale(c, t.ranks() - 1)); });
  t.mistake<P>("y", "y lacks the bias.", [&] { return add_bias(y.local(), scale(c, -1)); });
}

const RankTask forward("03.forward", [](Trial& t) {
  Setup s{t};
  s.by_hand.forward(s.x.local(), t.comm());
  out_y(t, "Y = X1 A1 + X2 A2 + c", Placed<Replicated>(s.by_hand.y), s.by_hand.c);
});

const RankTask backward("03.backward", [](Trial& t) {
  Setup s{t};
  s.by_hand.backward(s.dy.local(), s.x.local());
  t.out<Shard<1>>("dx", "dX = [dY A1', dY A2']", s.by_hand.dx);
  t.out<Shard<0>>("da", "dA = [X1' dY; X2' dY]", s.by_hand.da);
  t.out("dc", "dc = sum dY", s.by_hand.dc);
});

const RankTask typed_forward("03.typed_forward", [](Trial& t) {
  Setup s{t};
  out_y(t, "Y = X1 A1 + X2 A2 + c", s.typed.forward(s.x, s.saved, t.tp()), s.by_hand.c);
  t.out("saved.x", "X_i, kept for the backward", s.saved.x);
});

const RankTask scattered("03.scattered", [](Trial& t) {
  Setup s{t};
  const auto y = s.typed.forward_scattered(s.x, s.saved, t.tp());
  out_y(t, "Y = X1 A1 + X2 A2 + c, each rank its tokens", y, s.by_hand.c);
  t.out("saved.x", "X_i, kept for the backward", s.saved.x);
});

const RankTask typed_backward("03.typed_backward", [](Trial& t) {
  Setup s{t};
  t.out("dx", "dX = [dY A1', dY A2']", s.typed.backward_input(s.dy, s.saved));
  t.out("saved.dy", "dY, kept for the weights", s.saved.dy);
});

const RankTask typed_weight("03.typed_weight", [](Trial& t) {
  Setup s{t};
  s.saved = {s.x, s.dy};
  for (int batch = 0; batch < 2; ++batch)
    s.typed.backward_weight(s.saved);  // gradients of microbatches add up
  t.out("da", "dA_i += X_i' dY, twice", s.typed.da);
  t.out("dc", "dc += sum dY, twice", s.typed.dc);
});

const RankTask fewest("03.cheapest", [](Trial& t) {
  const int n = t.size(), f = t.cut();
  const auto [w, m] = t.unequal();  // either place of the sum is the cheaper one
  const Tensor x = t.in<Shard<1>>("X", n, f).local(), a = t.in<Shard<0>>("A", f, w).local();
  t.out("y", "Y = (X1 A1 + X2 A2) B", cheapest(x, a, t.in("B", w, m), t.comm()));
});

}  // namespace
