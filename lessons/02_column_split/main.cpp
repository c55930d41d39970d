// Lesson 02: Y = X A + c, cut by columns.
#include "02_column_split/harness/proof.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;

namespace {

/// Two ranks on a 2 x 2 example, computed here on one.
std::string by_hand() {
  const Tensor x = Tensor::of(2, 2, {1, 2, 3, -1}), a = Tensor::of(2, 4, {2, 0, 1, -1, 1, 3, 0, 2});
  const Tensor a1 = a.column_range(0, 2), a2 = a.column_range(2, 4);
  const Tensor dy = Tensor::of(2, 4, {1, 0, 0, 1, 2, -1, 1, 1});
  const Tensor dy1 = dy.column_range(0, 2), dy2 = dy.column_range(2, 4);
  return "  By hand (c = 0)\n" +
         side_by_side({{"X", Matrix::from(x)},
                       {"A1", Matrix::from(a1)},
                       {"|", {}},
                       {"A2", Matrix::from(a2)},
                       {"rank0", Matrix::from(matmul(x, a1))},
                       {"rank1", Matrix::from(matmul(x, a2))},
                       {"gathered", Matrix::from(matmul(x, a))}},
                      4) +
         side_by_side({{"dY1", Matrix::from(dy1)},
                       {"|", {}},
                       {"dY2", Matrix::from(dy2)},
                       {"rank0's term", Matrix::from(matmul(dy1, t(a1)))},
                       {"rank1's term", Matrix::from(matmul(dy2, t(a2)))},
                       {"dX, the sum", Matrix::from(matmul(dy, t(a)))}},
                      4);
}

std::vector<Equation> picture(const column_split::Sizes& s) {
  const std::string n = std::to_string(s.tokens), k = std::to_string(s.width), f = std::to_string(s.ffn);
  using enum Block::Cut;
  Equation forward{"forward: Y = X A + c", {}}, backward{"backward: dX = dY A'", {}};
  forward.add({"X", n, k, replicated, 60, 80}).add({"A", k, f, columns, 80, 120}).say("+");
  forward.add({"c", "1", f, columns, 16, 120}).say("=").add({"Y", n, f, columns, 60, 120}).send("all-gather");
  forward.add({"Y", n, f, replicated, 60, 120});
  backward.add({"dY", n, f, columns, 60, 120}).add({"A'", f, k, rows, 120, 80}).say("=");
  backward.add({"terms", n, k, partial, 60, 80}).send("all-reduce").add({"dX", n, k, replicated, 60, 80});
  return {forward, backward};
}

}  // namespace

int main(int argc, char** argv) {
  column_split::Sizes sizes;
  App app({"02", "column split", "Y = X A + c    X (N, K)  A (K, F) = [A1 A2 ...]  c (1, F)",
           "Why dX is a sum: all ranks used X.", format("column_split.hpp:{}", column_split::code_line)});
  app.size("--tokens", sizes.tokens, "N, rows of X");
  app.size("--width", sizes.width, "K, columns of X");
  app.size("--ffn", sizes.ffn, "F, columns of A");
  app.ranks_divide("--ffn", sizes.ffn);
  return app.run(argc, argv,
                 {.prove = [&](Proof& proof, Communicator& comm) { column_split::prove(proof, comm, sizes); },
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(sizes); },
                  .more = {}});
}
