#include "04_mlp_block/mlp_block.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::mlp_block;

namespace {

struct Setup {
  int n, k, f;
  Slice all, a, c1, b, h;
  ParallelMlp block;
  ParallelMlp::Saved saved;
  TensorParallel tp;
};

void on_ranks(Trial& t, const std::function<void(Setup&, int rank)>& body) {
  const int n = t.size(), k = t.cut(2), f = t.cut();
  t.on_ranks([&](Communicator& comm) {
    const Slice a = slice_of<Shard<1>>(k, f, comm), c1 = slice_of<Shard<1>>(1, f, comm),
                b = slice_of<Shard<0>>(f, k, comm), h = slice_of<Shard<1>>(n, f, comm);
    const ParallelMlp block{{t.in("A", a), t.in("c1", c1)},
                            {t.in("B", b), t.in("c2", 1, k)},
                            t.ranks() == 3 ? Activation::relu : Activation::gelu};
    Setup s{n, k, f, Slice::whole(n, k), a, c1, b, h, block, {}, TensorParallel(comm)};
    body(s, comm.rank());
  });
}

const Task forward("04.forward", [](Trial& t) {
  on_ranks(t, [&](Setup& s, int rank) {
    const auto y = s.block.forward(Placed<Replicated>(t.in("X", s.all)), s.saved, s.tp);
    t.out(rank, "y", "Y = H1 B1 + H2 B2 + c2", y.local(), s.all);
    t.out(rank, "saved.pre", "U = X A_i + c1_i, kept for the backward", s.saved.pre.local(), s.h);
    t.out(rank, "h", "H = f(U), what fc2 keeps", s.saved.fc2.x.local(), s.h);
  });
});

const Task backward("04.backward", [](Trial& t) {
  on_ranks(t, [&](Setup& s, int rank) {
    s.saved.pre = Placed<Shard<1>>(t.in("U", s.h));
    const auto dx = s.block.backward_input(Placed<Replicated>(t.in("dY", s.all)), s.saved, s.tp);
    t.out(rank, "dx", "dX = dU1 A1' + dU2 A2'", dx.local(), s.all);
    t.out(rank, "dpre", "dU = (dY B_i') f'(U_i), what fc1 keeps", s.saved.fc1.dy.local(), s.h);
  });
});

const Task plain("04.plain", [](Trial& t) {
  on_ranks(t, [&](Setup& s, int rank) {
    const Slice b = Slice::columns(s.f, s.k, rank, t.ranks()), c2 = Slice::columns(1, s.k, rank, t.ranks());
    const AllGatherMlp block{s.block.fc1, {t.in("B", b), t.in("c2", c2)}, s.block.f};
    AllGatherMlp::Saved saved;
    const auto y = block.forward(Placed<Replicated>(t.in("X", s.all)), saved, s.tp);
    const auto dx = block.backward_input(Placed<Replicated>(t.in("dY", s.all)), saved, s.tp);
    block.backward_weight(saved);
    t.out(rank, "y", "Y = [H B1, H B2] + c2", y.local(), s.all);
    t.out(rank, "dx", "dX = dU1 A1' + dU2 A2'", dx.local(), s.all);
    t.out(rank, "da", "dA = [X' dU1, X' dU2]", block.fc1.da.local(), s.a);
    t.out(rank, "dc1", "dc1 = [sum dU1, sum dU2]", block.fc1.dc.local(), s.c1);
    t.out(rank, "db", "dB = [H' dY1, H' dY2]", block.fc2.da.local(), b);
    t.out(rank, "dc2", "dc2 = [sum dY1, sum dY2]", block.fc2.dc.local(), c2);
  });
});

const Task lean("04.lean", [](Trial& t) {
  on_ranks(t, [&](Setup& s, int rank) {
    const LeanMlp block{s.block.fc1, s.block.fc2};
    LeanMlp::Saved saved;
    const Placed<Replicated> x(t.in("X", s.all)), dy(t.in("dY", s.all));
    const std::int64_t before = held();
    const auto y = block.forward(x, saved, s.tp);
    t.count(format("rank {} keeps # B after its forward", rank), held() - before - y.local().bytes());
    const auto dx = block.backward_input(dy, saved, s.tp);
    t.out(rank, "y", "Y = H1 B1 + H2 B2 + c2", y.local(), s.all);
    t.out(rank, "dx", "dX = dU1 A1' + dU2 A2'", dx.local(), s.all);
  });
});

}  // namespace
