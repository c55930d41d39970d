// What lesson 03 shows: an example by hand, and the picture of the cut.
#pragma once

#include "01_mlp/harness/sizes.hpp"
#include "report/table.hpp"

namespace tessera::row_split {

/// A 2 x 2 example of two ranks, computed here on one.
inline std::string by_hand() {
  const Tensor x = Tensor::of(2, 4, {1, 2, 1, 0, 3, -1, 2, 1}),
               a = Tensor::of(4, 2, {2, 0, 1, 3, 1, -1, 0, 2});
  const Tensor x1 = x.column_range(0, 2), x2 = x.column_range(2, 4);
  const Tensor a1 = a.row_range(0, 2), a2 = a.row_range(2, 4), c = Tensor::of(1, 2, {10, 20});
  const Tensor dy = Tensor::of(2, 2, {1, 0, 2, -1});
  const Tensor term1 = matmul(x1, a1), term2 = matmul(x2, a2), sum = add(term1, term2);
  return "  By hand (c = 10 20)\n" +
         side_by_side({"X1", "|", "X2", "A1", "A2", "rank0", "rank1", "sum", "+ c", "c too early"},
                      {x1, {}, x2, a1, a2, term1, term2, sum, add_bias(sum, c), add_bias(sum, scale(c, 2))}) +
         side_by_side({"dY", "rank0's dX1", "|", "rank1's dX2", "rank0's dA1", "rank1's dA2"},
                      {dy, matmul(dy, t(a1)), {}, matmul(dy, t(a2)), matmul(t(x1), dy), matmul(t(x2), dy)});
}

inline std::vector<Equation> picture(const LayerSizes& s) {
  return equations(
      s.sides(60, 80, 120),
      {{"forward: Y = X A + c", "X(N,F/p) A(F/p,W) = +terms(N,W) all-reduce -> X~A(N,W) + c(1,W) = Y(N,W)"},
       {"backward: dX = dY A'", "dY(N,W) A'(W,F/p) = dX(N,F/p)"}});
}

}  // namespace tessera::row_split
