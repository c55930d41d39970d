#include "09_sequence_parallel/sequence_parallel.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::sequence_parallel;

namespace {

/// One half of a block on a rank, with this rank's tokens of X and dY.
struct Half {
  Trial& t;
  int n = t.cut(), w = t.size(), f = t.cut();
  Placed<Shard<0>> x = t.in<Shard<0>>("X", n, w), dy = t.in<Shard<0>>("dY", n, w);
  ByHand layer{.gamma = t.in("gamma", 1, w),
               .beta = t.in("beta", 1, w),
               .a = t.in<Shard<1>>("A", w, f).local(),
               .c1 = t.in<Shard<1>>("c1", 1, f).local(),
               .b = t.in<Shard<0>>("B", f, w).local(),
               .c2 = t.in("c2", 1, w)};
};

const RankTask forward("09.forward", [](Trial& t) {
  Half s{t};
  s.layer.forward(s.x.local(), t.comm());
  t.out<Shard<0>>("y", "Y = X + gelu(norm(X) A + c1) B + c2, this rank's tokens", s.layer.y);
  t.out("all", "norm(X) of all tokens", s.layer.all);
  t.out<Shard<1>>("h", "H = gelu(U), this rank's columns", s.layer.h);
});

const RankTask backward("09.backward", [](Trial& t) {
  Half s{t};
  ByHand& l = s.layer;
  l.norm = layer_norm(s.x.local(), l.gamma, l.beta);
  l.all = layer_norm(t.in("X", s.n, s.w), l.gamma, l.beta).y;
  l.pre = add_bias(matmul(l.all, l.a), l.c1), l.h = gelu(l.pre);
  l.backward(s.dy.local(), t.comm());
  t.out<Shard<0>>("dx", "dX = dY + norm'(rows of dU1 A1' + dU2 A2')", l.dx);
  t.out<Shard<1>>("da", "dA = norm(X)' dU_i", l.da);
  t.out<Shard<1>>("dc1", "dc1 = sum dU_i", l.dc1);
  t.out<Shard<0>>("db", "dB = H_i' dY", l.db);
  t.out("dc2", "dc2 = sum dY, of all tokens", l.dc2);
  t.out("dgamma", "dgamma, summed over all tokens", l.dgamma);
  t.out("dbeta", "dbeta, summed over all tokens", l.dbeta);
});

/// In the place of attention or MLP: X A_i B_i.
struct Stub {
  ColumnTerms first;
  RowTerms second;
  struct Saved {
    ColumnTerms::Saved first;
    RowTerms::Saved second;
    Placed<Replicated>& x() { return first.x; }
  };
  Stub(ColumnTerms a, RowTerms b) : first(std::move(a)), second(std::move(b)) {}
  const RowTerms& last() const { return second; }

  Placed<Partial> forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel&) const {
    saved.first.x = x, saved.second.x = matmul(x, first.a);
    return matmul(saved.second.x, second.a);
  }
  Placed<Partial> backward_input(const Placed<Replicated>& dy, Saved& saved, const TensorParallel&) const {
    saved.second.dy = dy, saved.first.dy = matmul(dy, t(second.a));
    return matmul(saved.first.dy, t(first.a));
  }
  void backward_weight(const Saved& saved) const {
    add_matmul(first.da, t(saved.first.x), saved.first.dy);
    add_matmul(second.da, t(saved.second.x), saved.second.dy);
  }
};

const RankTask typed("09.typed", [](Trial& t) {
  const Half s{t};
  const TensorParallel tp = t.tp();
  for (const bool regather : {false, true}) {
    SequenceParallel<Stub> layer({s.layer.a, s.layer.c1}, {s.layer.b, s.layer.c2});
    layer.regather = regather;
    SequenceParallel<Stub>::Saved saved;
    const std::string which = regather ? " with regather" : "";
    const std::int64_t before = held();
    const auto y = layer.forward(s.x, saved, tp);
    t.count(format("rank {} keeps # B after its forward{}", t.rank(), which),
            held() - before - y.local().bytes());
    t.out("y" + which, "Y = rows of the sum, + c", y);
    t.out("dx" + which, "dX = rows of the sum", layer.backward_input(s.dy, saved, tp));
    layer.backward_weight(saved);
    t.out("da" + which, "dA = X' dH_i", layer.first.da);
    t.out("db" + which, "dB = H_i' dY", layer.second.da);
    t.out(format("dc of rank {}{}", t.rank(), which), "dc: the sum over this rank's tokens",
          layer.second.dc.local());
  }
});

const RankTask sums("09.sums", [](Trial& t) {
  const int count = t.size(), w = t.size();
  std::vector<Placed<Partial>> terms;
  for (int i = 0; i < count; ++i) terms.emplace_back(t.in(format("term {} of {}", i, t.rank()), 1, w));
  t.out("sums", "row i is the sum of all ranks' term i", sum_partials(terms, t.tp()));
  std::int64_t calls = 0;  // of rank 0, which counts the collectives
  for (const auto& [key, traffic] : t.comm().journal().traffic()) calls += traffic.calls;
  if (t.rank() == 0) t.count("the ranks make # calls", calls);
});

}  // namespace
