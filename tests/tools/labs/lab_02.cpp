#include "02_column_split/column_split.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::column_split;

namespace {

const Task forward("02.forward", [](Trial& t) {
  const int n = t.size(), k = t.size(), f = t.cut();
  t.on_ranks([&](Communicator& comm) {
    ByHand layer{t.in("A", slice_of<Shard<1>>(k, f, comm)), t.in("c", slice_of<Shard<1>>(1, f, comm))};
    layer.forward(t.in("X", n, k), comm);
    t.out(comm.rank(), "y", "Y = [X A1, X A2] + c", layer.y, Slice::whole(n, f));
    if (t.reference())
      t.mistake(comm.rank(), "y", "y lacks the bias.", add_bias(layer.y, scale(t.in("c", 1, f), -1)),
                Slice::whole(n, f));
  });
});

const Task backward("02.backward", [](Trial& t) {
  const int n = t.size(), k = t.size(), f = t.cut();
  t.on_ranks([&](Communicator& comm) {
    const Slice a = slice_of<Shard<1>>(k, f, comm), c = slice_of<Shard<1>>(1, f, comm);
    ByHand layer{t.in("A", a), t.in("c", c)};
    layer.backward(t.in("dY", n, f), t.in("X", n, k), comm);
    t.out(comm.rank(), "dx", "dX = dY1 A1' + dY2 A2'", layer.dx, Slice::whole(n, k));
    t.out(comm.rank(), "da", "dA = [X' dY1, X' dY2]", layer.da, a);
    t.out(comm.rank(), "dc", "dc = [sum dY1, sum dY2]", layer.dc, c);
  });
});

/// Calls body with the rank's typed layer.
void typed(Trial& t,
           const std::function<void(const ColumnParallelLinear&, int n, int k, int f, Communicator&)>& body) {
  const int n = t.size(), k = t.size(), f = t.cut();
  t.on_ranks([&](Communicator& comm) {
    body({t.in("A", slice_of<Shard<1>>(k, f, comm)), t.in("c", slice_of<Shard<1>>(1, f, comm))}, n, k, f,
         comm);
  });
}

const Task typed_forward("02.typed_forward", [](Trial& t) {
  typed(t, [&](const ColumnParallelLinear& layer, int n, int k, int f, Communicator& comm) {
    ColumnParallelLinear::Saved saved;
    const auto y = layer.forward(Placed<Replicated>(t.in("X", n, k)), saved);
    t.out(comm.rank(), "y", "Y_i = X A_i + c_i", y.local(), slice_of<Shard<1>>(n, f, comm));
    t.out(comm.rank(), "saved.x", "X, kept for the backward", saved.x.local(), Slice::whole(n, k));
  });
});

const Task typed_backward("02.typed_backward", [](Trial& t) {
  typed(t, [&](const ColumnParallelLinear& layer, int n, int k, int f, Communicator& comm) {
    const Slice own = slice_of<Shard<1>>(n, f, comm);
    ColumnParallelLinear::Saved saved{Placed<Replicated>(t.in("X", n, k)), {}};
    const auto dx = layer.backward_input(Placed<Shard<1>>(t.in("dY", own)), saved, TensorParallel(comm));
    t.out(comm.rank(), "dx", "dX = dY1 A1' + dY2 A2'", dx.local(), Slice::whole(n, k));
    t.out(comm.rank(), "saved.dy", "dY_i, kept for the weights", saved.dy.local(), own);
  });
});

const Task typed_weight("02.typed_weight", [](Trial& t) {
  typed(t, [&](const ColumnParallelLinear& layer, int n, int k, int f, Communicator& comm) {
    const ColumnParallelLinear::Saved saved{Placed<Replicated>(t.in("X", n, k)),
                                            Placed<Shard<1>>(t.in("dY", slice_of<Shard<1>>(n, f, comm)))};
    for (int batch = 0; batch < 2; ++batch) layer.backward_weight(saved);  // gradients of microbatches add up
    t.out(comm.rank(), "da", "dA_i += X' dY_i, twice", layer.da.local(), slice_of<Shard<1>>(k, f, comm));
    t.out(comm.rank(), "dc", "dc_i += sum dY_i, twice", layer.dc.local(), slice_of<Shard<1>>(1, f, comm));
  });
});

const Task fewest("02.cheapest", [](Trial& t) {
  const auto [n, k] = t.unequal();  // either of Y and A is the smaller one
  const int f = t.cut();
  t.on_ranks([&](Communicator& comm) {
    const Tensor y = cheapest(t.in("X", n, k), t.in("A", slice_of<Shard<1>>(k, f, comm)), comm);
    t.out(comm.rank(), "y", "Y = X [A1, A2]", y, Slice::whole(n, f));
  });
});

}  // namespace
