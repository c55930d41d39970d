#include "09_sequence_parallel/sequence_parallel.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::sequence_parallel;

namespace {

/// One half of a block on a rank of comm, with this rank's tokens of X and dY.
struct Half {
  int n, w, f;
  Slice own;
  Tensor x, dy;
  ByHand layer;
};

void on_ranks(Trial& t, const std::function<void(Half&, Communicator&)>& body) {
  const int n = t.cut(), w = t.size(), f = t.cut();
  t.on_ranks([&](Communicator& comm) {
    const Slice own = slice_of<Shard<0>>(n, w, comm), a = slice_of<Shard<1>>(w, f, comm),
                b = slice_of<Shard<0>>(f, w, comm);
    Half half{n, w, f, own, t.in("X", own), t.in("dY", own), {}};
    half.layer.gamma = t.in("gamma", 1, w), half.layer.beta = t.in("beta", 1, w);
    half.layer.a = t.in("A", a), half.layer.c1 = t.in("c1", slice_of<Shard<1>>(1, f, comm));
    half.layer.b = t.in("B", b), half.layer.c2 = t.in("c2", 1, w);
    body(half, comm);
  });
}

const Task forward("09.forward", [](Trial& t) {
  on_ranks(t, [&](Half& s, Communicator& comm) {
    s.layer.forward(s.x, comm);
    const int rank = comm.rank();
    t.out(rank, "y", "Y = X + gelu(norm(X) A + c1) B + c2, this rank's tokens", s.layer.y, s.own);
    t.out(rank, "all", "norm(X) of all tokens", s.layer.all, Slice::whole(s.n, s.w));
    t.out(rank, "h", "H = gelu(U), this rank's columns", s.layer.h, slice_of<Shard<1>>(s.n, s.f, comm));
  });
});

const Task backward("09.backward", [](Trial& t) {
  on_ranks(t, [&](Half& s, Communicator& comm) {
    ByHand& l = s.layer;
    l.norm = layer_norm(s.x, l.gamma, l.beta);
    l.all = layer_norm(t.in("X", s.n, s.w), l.gamma, l.beta).y;
    l.pre = add_bias(matmul(l.all, l.a), l.c1), l.h = gelu(l.pre);
    l.backward(s.dy, comm);
    const int rank = comm.rank();
    const Slice row = Slice::whole(1, s.w);
    t.out(rank, "dx", "dX = dY + norm'(rows of dU1 A1' + dU2 A2')", l.dx, s.own);
    t.out(rank, "da", "dA = norm(X)' dU_i", l.da, slice_of<Shard<1>>(s.w, s.f, comm));
    t.out(rank, "dc1", "dc1 = sum dU_i", l.dc1, slice_of<Shard<1>>(1, s.f, comm));
    t.out(rank, "db", "dB = H_i' dY", l.db, slice_of<Shard<0>>(s.f, s.w, comm));
    t.out(rank, "dc2", "dc2 = sum dY, of all tokens", l.dc2, row);
    t.out(rank, "dgamma", "dgamma, summed over all tokens", l.dgamma, row);
    t.out(rank, "dbeta", "dbeta, summed over all tokens", l.dbeta, row);
  });
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

const Task typed("09.typed", [](Trial& t) {
  on_ranks(t, [&](Half& s, Communicator& comm) {
    const TensorParallel tp(comm);
    for (const bool regather : {false, true}) {
      SequenceParallel<Stub> layer({s.layer.a, s.layer.c1}, {s.layer.b, s.layer.c2});
      layer.regather = regather;
      SequenceParallel<Stub>::Saved saved;
      const std::string which = regather ? " with regather" : "";
      const std::int64_t before = held();
      const auto y = layer.forward(Placed<Shard<0>>(s.x), saved, tp);
      const std::int64_t kept = held() - before - y.local().bytes();
      const auto dx = layer.backward_input(Placed<Shard<0>>(s.dy), saved, tp);
      layer.backward_weight(saved);
      const int rank = comm.rank();
      t.out(rank, "y" + which, "Y = rows of the sum, + c", y.local(), s.own);
      t.out(rank, "dx" + which, "dX = rows of the sum", dx.local(), s.own);
      t.out(rank, "da" + which, "dA = X' dH_i", layer.first.da.local(), slice_of<Shard<1>>(s.w, s.f, comm));
      t.out(rank, "db" + which, "dB = H_i' dY", layer.second.da.local(), slice_of<Shard<0>>(s.f, s.w, comm));
      t.out(rank, format("dc of rank {}{}", rank, which), "dc: the sum over this rank's tokens",
            layer.second.dc.local(), Slice::whole(1, s.w));
      t.count(format("rank {} keeps # B after its forward{}", rank, which), kept);
    }
  });
});

const Task sums("09.sums", [](Trial& t) {
  const int count = t.size(), w = t.size();
  t.on_ranks([&](Communicator& comm) {
    std::vector<Placed<Partial>> terms;
    for (int i = 0; i < count; ++i) terms.emplace_back(t.in(format("term {} of {}", i, comm.rank()), 1, w));
    t.out(comm.rank(), "sums", "row i is the sum of all ranks' term i",
          sum_partials(terms, TensorParallel(comm)).local(), Slice::whole(count, w));
    if (comm.rank() == 0) t.count("the ranks make # calls", calls(comm));
  });
});

}  // namespace
