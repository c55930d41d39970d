// Lesson 04: the MLP block, columns then rows, one all-reduce each way.
#include "04_mlp_block/harness/proof.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;

namespace {

/// Two ranks, relu, no biases, computed here on one.
std::string by_hand() {
  const Tensor x = Tensor::of(2, 2, {1, 2, 3, -1}), a = Tensor::of(2, 2, {2, 1, 1, -1}),
               b = Tensor::of(2, 2, {1, 3, 2, -1});
  const Tensor h1 = relu(matmul(x, a.column_range(0, 1))), h2 = relu(matmul(x, a.column_range(1, 2)));
  const Tensor y1 = matmul(h1, b.row_range(0, 1)), y2 = matmul(h2, b.row_range(1, 2));
  const Tensor dy = Tensor::of(2, 2, {1, 0, 2, -1}), dh = matmul(dy, t(b));
  const Tensor dp = relu_backward(dh, matmul(x, a)), dp1 = dp.column_range(0, 1), dp2 = dp.column_range(1, 2);
  const Tensor dx1 = matmul(dp1, t(a.column_range(0, 1))), dx2 = matmul(dp2, t(a.column_range(1, 2)));
  return "  By hand (f = relu, c1 = c2 = 0; rank 0 has A's first column and B's first row)\n" +
         side_by_side({{"X", Matrix::from(x)},
                       {"A1", Matrix::from(a.column_range(0, 1))},
                       {"|", {}},
                       {"A2", Matrix::from(a.column_range(1, 2))},
                       {"B1; B2", Matrix::from(b)},
                       {"H1", Matrix::from(h1)},
                       {"|", {}},
                       {"H2", Matrix::from(h2)},
                       {"H1 B1", Matrix::from(y1)},
                       {"H2 B2", Matrix::from(y2)},
                       {"Y, the sum", Matrix::from(add(y1, y2))}},
                      4) +
         side_by_side({{"dY", Matrix::from(dy)},
                       {"dH1", Matrix::from(dh.column_range(0, 1))},
                       {"|", {}},
                       {"dH2", Matrix::from(dh.column_range(1, 2))},
                       {"dP1", Matrix::from(dp1)},
                       {"|", {}},
                       {"dP2", Matrix::from(dp2)},
                       {"dP1 A1'", Matrix::from(dx1)},
                       {"dP2 A2'", Matrix::from(dx2)},
                       {"dX, the sum", Matrix::from(add(dx1, dx2))}},
                      4);
}

// begin counterexample
/// Why not rows first: with X by columns and A by rows, each rank has a term of X A, and f of a sum is not
/// the sum of f. The type refuses it, gelu(Partial) does not compile;
/// these are the numbers that it would give.
std::string counterexample() {
  const Tensor x = Tensor::of(1, 2, {1, 1}), a = Tensor::of(2, 2, {2, -1, -3, 2});
  const Tensor term1 = matmul(x.column_range(0, 1), a.row_range(0, 1));  // (1, 2)  rank 0's term of X A
  const Tensor term2 = matmul(x.column_range(1, 2), a.row_range(1, 2));  // (1, 2)  rank 1's
  return "  Rows first? f = gelu on the terms of a sum\n" +
         side_by_side({{"X1 A1", Matrix::from(term1)},
                       {"X2 A2", Matrix::from(term2)},
                       {"gelu(X A)", Matrix::from(gelu(matmul(x, a)))},
                       {"gelu(X1 A1) + gelu(X2 A2)", Matrix::from(add(gelu(term1), gelu(term2)))}},
                      4);
}
// end counterexample

std::vector<Equation> picture(const mlp_block::Sizes& s) {
  const std::string n = std::to_string(s.tokens), k = std::to_string(s.width), f = std::to_string(s.ffn);
  using enum Block::Cut;
  Equation forward{"forward: Y = f(X A + c1) B + c2", {}},
      backward{"backward: dX = dP A', dP = (dY B') f'(P)", {}};
  forward.say("f(").add({"X", n, k, replicated, 50, 64}).add({"A", k, f, columns, 64, 112}).say("+ c1) =");
  forward.add({"H", n, f, columns, 50, 112}).add({"B", f, k, rows, 112, 64}).say("=");
  forward.add({"terms", n, k, partial, 50, 64}).send("all-reduce, + c2");
  forward.add({"Y", n, k, replicated, 50, 64});
  backward.add({"dY", n, k, replicated, 50, 64}).add({"B'", k, f, columns, 64, 112}).say("f'(P) =");
  backward.add({"dP", n, f, columns, 50, 112}).add({"A'", f, k, rows, 112, 64}).say("=");
  backward.add({"terms", n, k, partial, 50, 64}).send("all-reduce").add({"dX", n, k, replicated, 50, 64});
  return {forward, backward};
}

/// A limit half-way between what one rank and what each of four needs.
std::string why_cut(const mlp_block::Sizes& s) {
  const auto need = [&](std::int64_t p) { return 4 * (2 * s.weights(p) + s.activations(p)); };
  const std::int64_t kib = (need(1) + need(4)) / 2 / 1024;
  const std::string command =
      format("./tessera run 04 --tokens {} --width {} --ffn {} --memory-per-rank {}KiB --ranks ", s.tokens,
             s.width, s.ffn, kib);
  return format(
      "  Why cut at all: of {} KiB a rank, one rank has too little and each of four enough. Try\n"
      "    {}1\n    {}4\n",
      kib, command, command);
}

}  // namespace

int main(int argc, char** argv) {
  mlp_block::Sizes sizes;
  std::string activation = "gelu";
  App app({"04", "MLP block",
           "Y = f(X A + c1) B + c2    X (N, K)  A (K, F) = [A1 A2 ...]  B (F, K) = [B1; B2; ...]",
           "Why columns first: f of a column needs that column only; f of a term of a sum would be wrong.",
           format("mlp_block.hpp:{}", mlp_block::code_line)});
  app.size("--tokens", sizes.tokens, "N, rows of X");
  app.size("--width", sizes.width, "K, columns of X and of Y");
  app.size("--ffn", sizes.ffn, "F, columns of A and rows of B");
  app.flags().choice("--activation", activation, {"gelu", "relu"}, "f; the exact tier takes relu");
  app.ranks_divide("--ffn", sizes.ffn);
  app.ranks_divide("--width", sizes.width);  // the plain way cuts B by columns
  const auto f = [&] {
    return activation == "gelu" ? mlp_block::Activation::gelu : mlp_block::Activation::relu;
  };
  return app.run(
      argc, argv,
      {.prove = [&](Proof& proof, Communicator& comm) { mlp_block::prove(proof, comm, sizes, f()); },
       .by_hand = by_hand,
       .picture = [&](int) { return picture(sizes); },
       .more = [&] { return counterexample() + "\n" + why_cut(sizes); }});
}
