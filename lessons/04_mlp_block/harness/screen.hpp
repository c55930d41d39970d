// What lesson 04 shows: an example by hand, a counterexample, the picture, and a limit that one rank cannot
// keep.
#pragma once

#include "04_mlp_block/harness/proof.hpp"
#include "report/table.hpp"

namespace tessera::mlp_block {

/// A 2 x 2 example of two ranks with relu and without biases, computed here on one.
inline std::string by_hand() {
  const Tensor x = Tensor::of(2, 2, {1, 2, 3, -1}), a = Tensor::of(2, 2, {2, 1, 1, -1}),
               b = Tensor::of(2, 2, {1, 3, 2, -1});
  const Tensor a1 = a.column_range(0, 1), a2 = a.column_range(1, 2);
  const Tensor h1 = relu(matmul(x, a1)), h2 = relu(matmul(x, a2));
  const Tensor y1 = matmul(h1, b.row_range(0, 1)), y2 = matmul(h2, b.row_range(1, 2));
  const Tensor dy = Tensor::of(2, 2, {1, 0, 2, -1}), dh = matmul(dy, t(b));
  const Tensor dh1 = dh.column_range(0, 1), dh2 = dh.column_range(1, 2);
  const Tensor dp1 = relu_backward(dh1, matmul(x, a1)), dp2 = relu_backward(dh2, matmul(x, a2));
  const Tensor dx1 = matmul(dp1, t(a1)), dx2 = matmul(dp2, t(a2));
  return "  By hand (f = relu, c1 = c2 = 0; rank 0 has A's first column and B's first row)\n" +
         side_by_side({"X", "A1", "|", "A2", "B1; B2", "H1", "|", "H2", "H1 B1", "H2 B2", "Y, the sum"},
                      {x, a1, {}, a2, b, h1, {}, h2, y1, y2, add(y1, y2)}) +
         side_by_side({"dY", "dH1", "|", "dH2", "dU1", "|", "dU2", "dU1 A1'", "dU2 A2'", "dX, the sum"},
                      {dy, dh1, {}, dh2, dp1, {}, dp2, dx1, dx2, add(dx1, dx2)});
}

// begin counterexample
/// Why the first matrix is not cut by rows: with X cut by columns and A by rows, each rank has a term of X A,
/// and f of a sum is not the sum of f. The types refuse the program, since gelu(Partial) does not compile;
/// these are the numbers that it would give.
inline std::string counterexample() {
  const Tensor x = Tensor::of(1, 2, {1, 1}), a = Tensor::of(2, 2, {2, -1, -3, 2});
  const Tensor term1 = matmul(x.column_range(0, 1), a.row_range(0, 1));  // (1, 2)  rank 0's term of X A
  const Tensor term2 = matmul(x.column_range(1, 2), a.row_range(1, 2));  // (1, 2)  rank 1's term of X A
  return "  Rows first? f = gelu on the terms of a sum\n" +
         side_by_side({"X1 A1", "X2 A2", "gelu(X A)", "gelu(X1 A1) + gelu(X2 A2)"},
                      {term1, term2, gelu(matmul(x, a)), add(gelu(term1), gelu(term2))});
}
// end counterexample

inline std::vector<Equation> picture(const Sizes& s) {
  return equations(s.sides(50, 64, 112),
                   {{"forward: Y = f(X A + c1) B + c2",
                     "f( X(N,W) A(W,F/p) + c1) = H(N,F/p) B(F/p,W) = +terms(N,W) all-reduce, + c2 -> Y(N,W)"},
                    {"backward: dH = dY B', and dU = dH \u2299 f'(U), element by element",
                     "dY(N,W) B'(W,F/p) = dH(N,F/p) \u2299 f'(U)(N,F/p) = dU(N,F/p)"},
                    {"backward: dX = dU A'", "dU(N,F/p) A'(F/p,W) = +terms(N,W) all-reduce -> dX(N,W)"}});
}

/// A limit of memory half-way between what one rank needs and what each of four ranks needs; "" where four
/// ranks cannot cut these sizes, or where no whole KiB lies between.
inline std::string why_cut(const Sizes& s) {
  const auto need = [&](std::int64_t p) { return 4 * (2 * weights_of(s, p) + activations_of(s, p)); };
  const std::int64_t kib = (need(1) + need(4)) / 2 / 1024;
  if (s.ffn % 4 != 0 || s.width % 4 != 0 || kib * 1024 < need(4)) return "";
  const std::string command =
      format("    ./tessera run 04 --tokens {} --width {} --ffn {} --memory-per-rank {}KiB --ranks ",
             s.tokens, s.width, s.ffn, kib);
  return format(
      "\n  Why the block is cut at all: {} KiB are too little for one rank, and enough for each of four. "
      "Try\n"
      "{}1\n{}4\n",
      kib, command, command);
}

}  // namespace tessera::mlp_block
