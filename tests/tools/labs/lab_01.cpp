#include "01_mlp/mlp.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::mlp;

namespace {

struct Setup {
  int n, k, f, m;
  Mlp model;
  Mlp::Saved saved;
  explicit Setup(Trial& t)
      : n(t.size()),
        k(t.size()),
        f(t.size()),
        m(t.size()),
        model{t.in("A", k, f), t.in("c1", 1, f), t.in("B", f, m), t.in("c2", 1, m),
              t.ranks() % 2 == 0 ? Activation::gelu : Activation::relu} {}
};

void out(Trial& t, const char* name, const char* identity, const Tensor& x, int rows, int cols) {
  t.out(0, name, identity, x, Slice::whole(rows, cols));
}

const Task forward("01.forward", [](Trial& t) {
  Setup s(t);
  out(t, "y", "Y = f(X A + c1) B + c2", s.model.forward(t.in("X", s.n, s.k), s.saved), s.n, s.m);
  out(t, "saved.x", "X, kept for the backward", s.saved.x, s.n, s.k);
  out(t, "saved.pre", "U = X A + c1, kept for the backward", s.saved.pre, s.n, s.f);
  out(t, "saved.h", "H = f(U), kept for the backward", s.saved.h, s.n, s.f);
});

const Task backward_input("01.backward_input", [](Trial& t) {
  Setup s(t);
  s.saved = {t.in("X", s.n, s.k), t.in("U", s.n, s.f), t.in("H", s.n, s.f), {}, {}};
  const Tensor dx = s.model.backward_input(t.in("dY", s.n, s.m), s.saved);
  out(t, "dx", "dX = dU A', dU = (dY B') f'(U)", dx, s.n, s.k);
  out(t, "saved.dpre", "dU = (dY B') f'(U), kept for the weights", s.saved.dpre, s.n, s.f);
  out(t, "saved.dy", "dY, kept for the weights", s.saved.dy, s.n, s.m);
});

const Task backward_weight("01.backward_weight", [](Trial& t) {
  Setup s(t);
  const Mlp::Saved saved{t.in("X", s.n, s.k), t.in("U", s.n, s.f), t.in("H", s.n, s.f), t.in("dU", s.n, s.f),
                         t.in("dY", s.n, s.m)};
  MemoryLedger& memory = Device::current()->memory;
  memory.reset_peak();
  const std::int64_t before = held();
  for (int batch = 0; batch < 2; ++batch) s.model.backward_weight(saved);  // gradients of batches add up
  t.count("temporary matrices hold # B at their peak", memory.peak(MemoryKind::activation) - before);
  out(t, "da", "dA += X' dU, twice", s.model.da, s.k, s.f);
  out(t, "dc1", "dc1 += sum dU, twice", s.model.dc1, 1, s.f);
  out(t, "db", "dB += H' dY, twice", s.model.db, s.f, s.m);
  out(t, "dc2", "dc2 += sum dY, twice", s.model.dc2, 1, s.m);
});

}  // namespace
