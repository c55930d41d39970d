// Lesson 03: Y = X A + c, X cut by columns and A by rows.
#include "03_row_split/harness/proof.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;

namespace {

/// Two ranks on a 2 x 2 example, computed here on one.
std::string by_hand() {
  const Tensor x = Tensor::of(2, 4, {1, 2, 1, 0, 3, -1, 2, 1}),
               a = Tensor::of(4, 2, {2, 0, 1, 3, 1, -1, 0, 2});
  const Tensor x1 = x.column_range(0, 2), x2 = x.column_range(2, 4);
  const Tensor a1 = a.row_range(0, 2), a2 = a.row_range(2, 4), c = Tensor::of(1, 2, {10, 20});
  const Tensor dy = Tensor::of(2, 2, {1, 0, 2, -1});
  const Tensor sum = add(matmul(x1, a1), matmul(x2, a2));
  return "  By hand (c = 10 20)\n" +
         side_by_side({{"X1", Matrix::from(x1)},
                       {"|", {}},
                       {"X2", Matrix::from(x2)},
                       {"A1", Matrix::from(a1)},
                       {"A2", Matrix::from(a2)},
                       {"rank0", Matrix::from(matmul(x1, a1))},
                       {"rank1", Matrix::from(matmul(x2, a2))},
                       {"sum", Matrix::from(sum)},
                       {"+ c", Matrix::from(add_bias(sum, c))},
                       {"c too early", Matrix::from(add_bias(sum, scale(c, 2)))}},
                      4) +
         side_by_side({{"dY", Matrix::from(dy)},
                       {"rank0's dX1", Matrix::from(matmul(dy, t(a1)))},
                       {"|", {}},
                       {"rank1's dX2", Matrix::from(matmul(dy, t(a2)))},
                       {"rank0's dA1", Matrix::from(matmul(t(x1), dy))},
                       {"rank1's dA2", Matrix::from(matmul(t(x2), dy))}},
                      4);
}

std::vector<Equation> picture(const row_split::Sizes& s) {
  const std::string n = std::to_string(s.tokens), k = std::to_string(s.width), f = std::to_string(s.ffn);
  using enum Block::Cut;
  Equation forward{"forward: Y = X A + c", {}}, backward{"backward: dX = dY A'", {}};
  forward.add({"X", n, f, columns, 60, 120}).add({"A", f, k, rows, 120, 80}).say("=");
  forward.add({"terms", n, k, partial, 60, 80})
      .send("all-reduce")
      .add({"X A", n, k, replicated, 60, 80})
      .say("+");
  forward.add({"c", "1", k, replicated, 16, 80}).say("=").add({"Y", n, k, replicated, 60, 80});
  backward.add({"dY", n, k, replicated, 60, 80}).add({"A'", k, f, columns, 80, 120}).say("=");
  backward.add({"dX", n, f, columns, 60, 120});
  return {forward, backward};
}

}  // namespace

int main(int argc, char** argv) {
  row_split::Sizes sizes;
  App app({"03", "row split", "Y = X A + c    X (N, F) = [X1 X2 ...]  A (F, K) = [A1; A2; ...]  c (1, K)",
           "Why dX sends nothing: dY is whole on every rank, and X_i was used by rank i alone.",
           format("row_split.hpp:{}", row_split::code_line)});
  app.size("--tokens", sizes.tokens, "N, rows of X");
  app.size("--width", sizes.width, "K, columns of A");
  app.size("--ffn", sizes.ffn, "F, columns of X and rows of A");
  app.ranks_divide("--ffn", sizes.ffn);
  app.ranks_divide("--tokens", sizes.tokens);  // the reduce-scatter gives each rank its tokens
  return app.run(argc, argv,
                 {.prove = [&](Proof& proof, Communicator& comm) { row_split::prove(proof, comm, sizes); },
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(sizes); },
                  .more = {}});
}
