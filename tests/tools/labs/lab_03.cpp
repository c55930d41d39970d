#include "03_row_split/row_split.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::row_split;

namespace {

/// From the right Y: what it would be with c added by every rank before the sum.
void mistakes(Trial& t, int rank, const char* name, const Tensor& y, const Tensor& c, const Slice& slice) {
  if (!t.reference()) return;
  t.mistake(rank, name, format("{} holds the bias p times: was it added before the sum?", name),
            add_bias(y, scale(c, t.ranks() - 1)), slice);
  t.mistake(rank, name, format("{} lacks the bias.", name), add_bias(y, scale(c, -1)), slice);
}

const Task forward("03.forward", [](Trial& t) {
  const int n = t.size(), f = t.cut(), k = t.size();
  t.on_ranks([&](Communicator& comm) {
    ByHand layer{t.in("A", slice_of<Shard<0>>(f, k, comm)), t.in("c", 1, k)};
    layer.forward(t.in("X", slice_of<Shard<1>>(n, f, comm)), comm);
    t.out(comm.rank(), "y", "Y = X1 A1 + X2 A2 + c", layer.y, Slice::whole(n, k));
    mistakes(t, comm.rank(), "y", layer.y, layer.c, Slice::whole(n, k));
  });
});

const Task backward("03.backward", [](Trial& t) {
  const int n = t.size(), f = t.cut(), k = t.size();
  t.on_ranks([&](Communicator& comm) {
    const Slice a = slice_of<Shard<0>>(f, k, comm), x = slice_of<Shard<1>>(n, f, comm);
    ByHand layer{t.in("A", a), t.in("c", 1, k)};
    layer.backward(t.in("dY", n, k), t.in("X", x));
    t.out(comm.rank(), "dx", "dX = [dY A1', dY A2']", layer.dx, x);
    t.out(comm.rank(), "da", "dA = [X1' dY; X2' dY]", layer.da, a);
    t.out(comm.rank(), "dc", "dc = sum dY", layer.dc, Slice::whole(1, k));
  });
});

struct Setup {
  int n, f, k;
  Slice x, a;
  RowParallelLinear layer;
  RowParallelLinear::Saved saved;
};

/// Calls body with the rank's typed layer.
void typed(Trial& t, const std::function<void(Setup&, Communicator&)>& body) {
  const int n = t.cut(), f = t.cut(), k = t.size();
  t.on_ranks([&](Communicator& comm) {
    const Slice x = slice_of<Shard<1>>(n, f, comm), a = slice_of<Shard<0>>(f, k, comm);
    Setup s{n, f, k, x, a, {t.in("A", a), t.in("c", 1, k)}, {}};
    body(s, comm);
  });
}

const Task typed_forward("03.typed_forward", [](Trial& t) {
  typed(t, [&](Setup& s, Communicator& comm) {
    const Slice whole = Slice::whole(s.n, s.k);
    const auto y = s.layer.forward(Placed<Shard<1>>(t.in("X", s.x)), s.saved, TensorParallel(comm)).local();
    t.out(comm.rank(), "y", "Y = X1 A1 + X2 A2 + c", y, whole);
    t.out(comm.rank(), "saved.x", "X_i, kept for the backward", s.saved.x.local(), s.x);
    mistakes(t, comm.rank(), "y", y, s.layer.c.local(), whole);
  });
});

const Task scattered("03.scattered", [](Trial& t) {
  typed(t, [&](Setup& s, Communicator& comm) {
    const auto y = s.layer.forward_scattered(Placed<Shard<1>>(t.in("X", s.x)), s.saved, TensorParallel(comm));
    const Slice own = slice_of<Shard<0>>(s.n, s.k, comm);
    t.out(comm.rank(), "y", "Y = X1 A1 + X2 A2 + c, each rank its tokens", y.local(), own);
    t.out(comm.rank(), "saved.x", "X_i, kept for the backward", s.saved.x.local(), s.x);
    mistakes(t, comm.rank(), "y", y.local(), s.layer.c.local(), own);
  });
});

const Task typed_backward("03.typed_backward", [](Trial& t) {
  typed(t, [&](Setup& s, Communicator& comm) {
    const auto dx = s.layer.backward_input(Placed<Replicated>(t.in("dY", s.n, s.k)), s.saved);
    t.out(comm.rank(), "dx", "dX = [dY A1', dY A2']", dx.local(), s.x);
    t.out(comm.rank(), "saved.dy", "dY, kept for the weights", s.saved.dy.local(), Slice::whole(s.n, s.k));
  });
});

const Task typed_weight("03.typed_weight", [](Trial& t) {
  typed(t, [&](Setup& s, Communicator& comm) {
    s.saved = {Placed<Shard<1>>(t.in("X", s.x)), Placed<Replicated>(t.in("dY", s.n, s.k))};
    for (int batch = 0; batch < 2; ++batch) s.layer.backward_weight(s.saved);  // microbatches add up
    t.out(comm.rank(), "da", "dA_i += X_i' dY, twice", s.layer.da.local(), s.a);
    t.out(comm.rank(), "dc", "dc += sum dY, twice", s.layer.dc.local(), Slice::whole(1, s.k));
  });
});

const Task fewest("03.cheapest", [](Trial& t) {
  const int n = t.size(), f = t.cut();
  const auto [w, m] = t.unequal();  // either place of the sum is the cheaper one
  t.on_ranks([&](Communicator& comm) {
    const Tensor y = cheapest(t.in("X", slice_of<Shard<1>>(n, f, comm)),
                              t.in("A", slice_of<Shard<0>>(f, w, comm)), t.in("B", w, m), comm);
    t.out(comm.rank(), "y", "Y = (X1 A1 + X2 A2) B", y, Slice::whole(n, m));
  });
});

}  // namespace
