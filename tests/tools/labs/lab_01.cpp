#include "01_mlp/mlp.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::mlp;

namespace {

struct Setup {
  Trial& t;
  int n = t.size(), k = t.size(), f = t.size(), m = t.size();
  Activation activation = t.ranks() % 2 == 0 ? Activation::gelu : Activation::relu;
  Mlp model{t.in("A", k, f), t.in("c1", 1, f), t.in("B", f, m), t.in("c2", 1, m), activation};
  Tensor x = t.in("X", n, k), u = t.in("U", n, f), h = t.in("H", n, f), dy = t.in("dY", n, m);
};

const Task forward("01.forward", [](Trial& t) {
  const Setup s{t};
  Mlp::Saved saved;
  t.out("y", "Y = f(X A + c1) B + c2", s.model.forward(s.x, saved));
  t.out("saved.x", "X, kept for the backward", saved.x);
  t.out("saved.pre", "U = X A + c1, kept for the backward", saved.pre);
  t.out("saved.h", "H = f(U), kept for the backward", saved.h);
});

const Task backward_input("01.backward_input", [](Trial& t) {
  const Setup s{t};
  Mlp::Saved saved{s.x, s.u, s.h, {}, {}};
  t.out("dx", "dX = dU A', dU = (dY B') f'(U)", s.model.backward_input(s.dy, saved));
  t.out("saved.dpre", "dU = (dY B') f'(U), kept for the weights", saved.dpre);
  t.out("saved.dy", "dY, kept for the weights", saved.dy);
});

const Task backward_weight("01.backward_weight", [](Trial& t) {
  const Setup s{t};
  const Mlp::Saved saved{s.x, s.u, s.h, t.in("dU", s.n, s.f), s.dy};
  MemoryLedger& memory = Device::current()->memory;
  memory.reset_peak();
  const std::int64_t before = held();
  for (int batch = 0; batch < 2; ++batch) s.model.backward_weight(saved);  // gradients of batches add up
  t.count("temporary matrices hold # B at their peak", memory.peak(MemoryKind::activation) - before);
  t.out("da", "dA += X' dU, twice", s.model.da);
  t.out("dc1", "dc1 += sum dU, twice", s.model.dc1);
  t.out("db", "dB += H' dY, twice", s.model.db);
  t.out("dc2", "dc2 += sum dY, twice", s.model.dc2);
});

}  // namespace
