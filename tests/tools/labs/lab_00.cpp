#define main by_hand_main  // lesson 00 is a program of its own
#include "00_by_hand/by_hand.cpp"
#undef main
#include "lab.hpp"

using tessera::Tensor;

namespace {

/// Integers from -4 to 4.
Matrix integers(const Trial& t, const std::string& name, int rows, int cols) {
  Matrix m{rows, cols};
  const std::vector<double> values = t.in(name, rows, cols).values();
  for (std::size_t i = 0; i < values.size(); ++i) m.values[i] = static_cast<int>(5 * values[i]);
  return m;
}

void out(Trial& t, const std::string& name, const char* identity, const Matrix& m) {
  t.out(name, identity, Tensor::of(m.rows, m.cols, {m.values.begin(), m.values.end()}));
}

const Task columns_task("00.columns", [](Trial& t) {
  const int n = t.size(), k = t.size(), m = t.cut(), p = t.ranks();
  const Matrix x = integers(t, "X", n, k), a = integers(t, "A", k, m);
  for (int r = 0; r < p; ++r)
    out(t, "columns of rank " + std::to_string(r), "Y_r = X A_r", columns(x, a, r, p));
});

const Task all_reduce_task("00.all_reduce", [](Trial& t) {
  Group group{t.ranks()};
  t.on_ranks([&](Trial& own) {
    const int n = own.size(), m = own.size();
    Matrix total{n, m};  // of many rounds, so that ranks which do not wait for each other are caught
    for (int round = 0; round < 200; ++round) {
      Matrix term = integers(own, "term of rank " + std::to_string(own.rank()), n, m);
      for (int& value : term.values) value += round;
      const Matrix sum = all_reduce(group, own.rank(), term);
      if (sum.rows != n || sum.cols != m) return out(own, "sum", "terms added", sum);
      for (int i = 0; i < n * m; ++i) total.values[i] += (round % 7 + 1) * sum.values[i];
    }
    out(own, "sum", "the sum of all terms, of 200 rounds added up", total);
  });
});

const Task rows_task("00.rows", [](Trial& t) {
  Group group{t.ranks()};
  t.on_ranks([&](Trial& own) {
    const int n = own.size(), k = own.cut(), m = own.size(), p = own.ranks();
    const Matrix x = integers(own, "X", n, k), a = integers(own, "A", k, m);
    Matrix x_r{n, k / p};
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < k / p; ++j) x_r(i, j) = x(i, own.rank() * (k / p) + j);
    out(own, "rows", "Y = X1 A1 + X2 A2", rows(group, x_r, a, own.rank()));
  });
});

const Task both_task("00.both", [](Trial& t) {
  Group group{t.ranks()};
  t.on_ranks([&](Trial& own) {
    const int n = own.size(), k = own.size(), f = own.cut(), m = own.size();
    const Matrix x = integers(own, "X", n, k), a = integers(own, "A", k, f), b = integers(own, "B", f, m);
    out(own, "both", "Y = relu(X A) B", both(group, x, a, b, own.rank()));
  });
});

}  // namespace
