// A product cut over ranks, by hand. The ranks are threads.  g++ -std=c++20 -pthread by_hand.cpp -o by_hand
// begin matrix
#include <algorithm>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

struct Matrix {  // row-major
  int rows = 0, cols = 0;
  std::vector<int> values = std::vector<int>(std::size_t(rows) * cols);
  int& operator()(int i, int j) { return values[i * cols + j]; }
  int operator()(int i, int j) const { return values[i * cols + j]; }
};

Matrix matmul(const Matrix& x, const Matrix& a) {  // (N, W) (W, F) -> (N, F)
  Matrix y{x.rows, a.cols};
  for (int i = 0; i < x.rows; ++i)
    for (int j = 0; j < a.cols; ++j)
      for (int k = 0; k < x.cols; ++k) y(i, j) += x(i, k) * a(k, j);
  return y;
}

Matrix small_integers(int rows, int cols, int seed) {  // from -2 to 2
  Matrix m{rows, cols};
  for (int& value : m.values) value = (seed = (75 * seed + 74) % 65537) % 5 - 2;
  return m;
}

void print(const std::string& name, const Matrix& m) {
  for (int i = 0; i < m.rows; ++i) {
    std::printf("  %-8s", i == 0 ? name.c_str() : "");
    for (int j = 0; j < m.cols; ++j) std::printf("%4d", m(i, j));
    std::printf("\n");
  }
}

bool check(const char* name, const std::vector<Matrix>& cut, const Matrix& reference) {
  int error = 0;  // the largest difference of two elements: sums of integers do not round, so it must be 0
  for (const Matrix& m : cut) {
    if (m.rows != reference.rows || m.cols != reference.cols)
      return std::printf("  %s: wrong shape\n", name), false;
    for (int i = 0; i < m.rows * m.cols; ++i)
      error = std::max(error, std::abs(m.values[i] - reference.values[i]));
  }
  std::printf("  %s: error %d\n", name, error);
  return error == 0;
}
// end matrix, begin columns
Matrix block(const Matrix& m, int i0, int j0, int rows, int cols) {
  Matrix part{rows, cols};
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j) part(i, j) = m(i0 + i, j0 + j);
  return part;
}

// X [A1 A2] = [X A1, X A2]: a rank needs all of X, its columns of A, and no other rank.
// task 00.columns (line, 1 point, 10 min): compute rank r's columns of X A. Shapes: X (N, W), A_r (W, F/p) ->
// Y_r (N, F/p). Hint: cut A, then multiply. The inner loop still runs over W.
Matrix columns(const Matrix& x, const Matrix& a, int r, int p) {
  const int m = a.cols / p;
  return matmul(x, block(a, 0, r * m, a.rows, m));  // (N, W) (W, F/p) -> (N, F/p)
}
// end task

Matrix side_by_side(const std::vector<Matrix>& parts) {
  Matrix whole{parts[0].rows, parts[0].cols * static_cast<int>(parts.size())};
  for (int i = 0; i < whole.rows; ++i)
    for (int j = 0; j < whole.cols; ++j) whole(i, j) = parts[j / parts[0].cols](i, j % parts[0].cols);
  return whole;
}
// end columns, begin ranks
template <class Body>
std::vector<Matrix> on_ranks(int p, Body body) {  // calls body(r) on p ranks at once
  std::vector<Matrix> results(p);
  std::vector<std::thread> threads;
  for (int r = 0; r < p; ++r) threads.emplace_back([&, r] { results[r] = body(r); });
  for (std::thread& thread : threads) thread.join();
  for (int r = 0; r < p; ++r) print("rank " + std::to_string(r), results[r]);
  return results;
}
// end ranks, begin rows
struct Group {  // what the ranks share: a slot for each rank, and a barrier at which they wait
  int size;
  std::vector<Matrix> slots = std::vector<Matrix>(size);
  std::barrier<> barrier{size};
};

// task 00.all_reduce (function, 3 points, 25 min): give every rank the sum of all ranks' terms. Shapes: (N,
// M) -> (N, M). Hint: no rank reads before all have written, and none writes again before all have read.
Matrix all_reduce(Group& group, int r, const Matrix& term) {
  group.slots[r] = term;
  group.barrier.arrive_and_wait();
  Matrix sum{term.rows, term.cols};
  for (const Matrix& slot : group.slots)  // in rank order, so that every rank gets the same sum
    for (int i = 0; i < slot.rows * slot.cols; ++i) sum.values[i] += slot.values[i];
  group.barrier.arrive_and_wait();
  return sum;
}
// end task

// [X1 X2] [A1; A2] = X1 A1 + X2 A2: the product of each rank has the full size, and is only a term of Y.
// task 00.rows (line, 1 point, 10 min): compute X A from rank r's columns of X. Shapes: X_r (N, W/p), A_r
// (W/p, F) -> Y (N, F). Hint: column k of X is multiplied by row k of A.
Matrix rows(Group& group, const Matrix& x_r, const Matrix& a, int r) {
  const int k = a.rows / group.size;
  return all_reduce(group, r, matmul(x_r, block(a, r * k, 0, k, a.cols)));  // p terms (N, F) -> their sum
}
// end task
// end rows, begin both
Matrix relu(Matrix h) {
  for (int& value : h.values) value = std::max(value, 0);
  return h;
}

// relu(X A) B with A cut by columns and B by rows: the first product leaves the columns that B's rows need.
// task 00.both (function, 2 points, 15 min): compute relu(X A) B with one sum. Shapes: X (N, W), A (W, F), B
// (F, M) -> Y (N, M). Hint: relu looks at one element at a time, and rank r holds whole elements of X A.
Matrix both(Group& group, const Matrix& x, const Matrix& a, const Matrix& b, int r) {
  const Matrix h_r = relu(columns(x, a, r, group.size));  // (N, F/p)
  return rows(group, h_r, b, r);                          // (N, M)
}
// end task
// end both, begin main
int main(int argc, char** argv) {
  const std::string flag = argc > 1 ? argv[1] : "--ranks", n = argc == 1 ? "2" : argc == 3 ? argv[2] : "";
  int p = 0;
  for (int i : {1, 2, 3, 4, 6, 12}) p = flag == "--ranks" && n == std::to_string(i) ? i : p;
  if (p == 0) {
    std::fputs("by_hand --ranks N; N divides 12: 1, 2, 3, 4, 6 or 12\n", flag == "--help" ? stdout : stderr);
    return flag == "--help" ? 0 : 2;
  }
  const Matrix x = small_integers(2, 3, 1), a = small_integers(3, 12, 2), b = small_integers(12, 3, 3);
  const Matrix h = relu(matmul(x, a)), y = matmul(h, b);
  std::printf("Columns: X A = [X A1, X A2, ...] on %d ranks\n", p);
  print("X", x), print("A", a);
  const Matrix xa = side_by_side(on_ranks(p, [&](int r) { return columns(x, a, r, p); }));
  bool ok = check("side by side = X A", {xa}, matmul(x, a));
  std::printf("Rows: H B = H1 B1 + H2 B2 + ..., with H = relu(X A)\n");
  print("H", h), print("B", b);
  Group group{p};
  const auto sums = on_ranks(p, [&](int r) { return rows(group, block(h, 0, r * 12 / p, 2, 12 / p), b, r); });
  for (int r = 0; r < p; ++r) print("term " + std::to_string(r), group.slots[r]);
  ok &= check("the sum = H B", sums, y);
  std::printf("Both: relu(X A) B with one sum\n");
  ok &= check("the sum = H B", on_ranks(p, [&](int r) { return both(group, x, a, b, r); }), y);
  return ok ? 0 : 1;
}
// end main
