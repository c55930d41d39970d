#include "04_mlp_block/mlp_block.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::mlp_block;

namespace {

struct Setup {
  Trial& t;
  int n = t.size(), k = t.cut(2), f = t.cut();
  Placed<Replicated> x = t.in<Replicated>("X", n, k), dy = t.in<Replicated>("dY", n, k);
  ParallelMlp block{{t.in<Shard<1>>("A", k, f).local(), t.in<Shard<1>>("c1", 1, f).local()},
                    {t.in<Shard<0>>("B", f, k).local(), t.in("c2", 1, k)},
                    t.ranks() == 3 ? Activation::relu : Activation::gelu};
};

const RankTask forward("04.forward", [](Trial& t) {
  const Setup s{t};
  ParallelMlp::Saved saved;
  t.out("y", "Y = H1 B1 + H2 B2 + c2", s.block.forward(s.x, saved, t.tp()));
  t.out("saved.pre", "U = X A_i + c1_i, kept for the backward", saved.pre);
  t.out("h", "H = f(U), what fc2 keeps", saved.fc2.x);
});

const RankTask backward("04.backward", [](Trial& t) {
  const Setup s{t};
  ParallelMlp::Saved saved;
  saved.pre = t.in<Shard<1>>("U", s.n, s.f);
  t.out("dx", "dX = dU1 A1' + dU2 A2'", s.block.backward_input(s.dy, saved, t.tp()));
  t.out("dpre", "dU = (dY B_i') f'(U_i), what fc1 keeps", saved.fc1.dy);
});

const RankTask plain("04.plain", [](Trial& t) {
  const Setup s{t};
  const AllGatherMlp block{
      s.block.fc1, {t.in<Shard<1>>("B", s.f, s.k).local(), t.in<Shard<1>>("c2", 1, s.k).local()}, s.block.f};
  AllGatherMlp::Saved saved;
  t.out("y", "Y = [H B1, H B2] + c2", block.forward(s.x, saved, t.tp()));
  t.out("dx", "dX = dU1 A1' + dU2 A2'", block.backward_input(s.dy, saved, t.tp()));
  block.backward_weight(saved);
  t.out("da", "dA = [X' dU1, X' dU2]", block.fc1.da);
  t.out("dc1", "dc1 = [sum dU1, sum dU2]", block.fc1.dc);
  t.out("db", "dB = [H' dY1, H' dY2]", block.fc2.da);
  t.out("dc2", "dc2 = [sum dY1, sum dY2]", block.fc2.dc);
});

const RankTask lean("04.lean", [](Trial& t) {
  const Setup s{t};
  const LeanMlp block{s.block.fc1, s.block.fc2};
  LeanMlp::Saved saved;
  const std::int64_t before = held();
  const auto y = block.forward(s.x, saved, t.tp());
  t.count(format("rank {} keeps # B after its forward", t.rank()), held() - before - y.local().bytes());
  t.out("y", "Y = H1 B1 + H2 B2 + c2", y);
  t.out("dx", "dX = dU1 A1' + dU2 A2'", block.backward_input(s.dy, saved, t.tp()));
});

}  // namespace
