#define main by_hand_main  // lesson 00 is a program of its own
#include "00_by_hand/by_hand.cpp"
#undef main
#include "lab.hpp"

using tessera::Communicator;
using tessera::Slice;
using tessera::Tensor;

namespace {

/// Integers from -4 to 4.
Matrix integers(const Trial& t, const std::string& name, int rows, int cols) {
  Matrix m{rows, cols};
  const std::vector<double> values = t.in(name, rows, cols).values();
  for (std::size_t i = 0; i < values.size(); ++i) m.values[i] = static_cast<int>(5 * values[i]);
  return m;
}

void out(Trial& t, int rank, const char* name, const char* identity, const Matrix& m, const Slice& slice) {
  const std::vector<double> values(m.values.begin(), m.values.end());
  t.out(rank, name, identity, Tensor::of(m.rows, m.cols, values), slice);
}

const Task columns_task("00.columns", [](Trial& t) {
  const int n = t.size(), k = t.size(), m = t.cut(), p = t.ranks();
  const Matrix x = integers(t, "X", n, k), a = integers(t, "A", k, m);
  for (int r = 0; r < p; ++r)
    out(t, r, "columns", "Y_r = X A_r", columns(x, a, r, p), Slice::columns(n, m, r, p));
});

const Task all_reduce_task("00.all_reduce", [](Trial& t) {
  const int n = t.size(), m = t.size();
  Group group{t.ranks()};
  t.on_ranks([&](Communicator& comm) {
    const int r = comm.rank();
    Matrix total{n, m};  // of many rounds, so that ranks which do not wait for each other are caught
    for (int round = 0; round < 200; ++round) {
      Matrix term = integers(t, "term of rank " + std::to_string(r), n, m);
      for (int& value : term.values) value += round;
      const Matrix sum = all_reduce(group, r, term);
      if (sum.rows != n || sum.cols != m) return out(t, r, "sum", "terms added", sum, Slice::whole(n, m));
      for (int i = 0; i < n * m; ++i) total.values[i] += (round % 7 + 1) * sum.values[i];
    }
    out(t, r, "sum", "the sum of all terms, of 200 rounds added up", total, Slice::whole(n, m));
  });
});

const Task rows_task("00.rows", [](Trial& t) {
  const int n = t.size(), k = t.cut(), m = t.size(), p = t.ranks();
  const Matrix x = integers(t, "X", n, k), a = integers(t, "A", k, m);
  Group group{p};
  t.on_ranks([&](Communicator& comm) {
    Matrix x_r{n, k / p};
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < k / p; ++j) x_r(i, j) = x(i, comm.rank() * (k / p) + j);
    out(t, comm.rank(), "rows", "Y = X1 A1 + X2 A2", rows(group, x_r, a, comm.rank()), Slice::whole(n, m));
  });
});

const Task both_task("00.both", [](Trial& t) {
  const int n = t.size(), k = t.size(), f = t.cut(), m = t.size();
  const Matrix x = integers(t, "X", n, k), a = integers(t, "A", k, f), b = integers(t, "B", f, m);
  Group group{t.ranks()};
  t.on_ranks([&](Communicator& comm) {
    const int r = comm.rank();
    out(t, r, "both", "Y = relu(X A) B", both(group, x, a, b, r), Slice::whole(n, m));
  });
});

}  // namespace
