// What lesson 02 shows: an example by hand, and the picture of the cut.
#pragma once

#include "01_mlp/harness/sizes.hpp"
#include "report/table.hpp"

namespace tessera::column_split {

/// A 2 x 2 example of two ranks, computed here on one.
inline std::string by_hand() {
  const Tensor x = Tensor::of(2, 2, {1, 2, 3, -1}), a = Tensor::of(2, 4, {2, 0, 1, -1, 1, 3, 0, 2});
  const Tensor a1 = a.column_range(0, 2), a2 = a.column_range(2, 4);
  const Tensor dy = Tensor::of(2, 4, {1, 0, 0, 1, 2, -1, 1, 1});
  const Tensor dy1 = dy.column_range(0, 2), dy2 = dy.column_range(2, 4);
  return "  By hand (c = 0)\n" +
         side_by_side({"X", "A1", "|", "A2", "rank0", "rank1", "gathered"},
                      {x, a1, {}, a2, matmul(x, a1), matmul(x, a2), matmul(x, a)}) +
         side_by_side({"dY1", "|", "dY2", "rank0's term", "rank1's term", "dX, the sum"},
                      {dy1, {}, dy2, matmul(dy1, t(a1)), matmul(dy2, t(a2)), matmul(dy, t(a))});
}

inline std::vector<Equation> picture(const LayerSizes& s) {
  return equations(s.sides(60, 80, 120),
                   {{"forward: Y = X A + c", "X(N,W) A(W,F/p) + c(1,F/p) = Y(N,F/p) all-gather -> Y(N,F)"},
                    {"backward: dX = dY A'", "dY(N,F/p) A'(F/p,W) = +terms(N,W) all-reduce -> dX(N,W)"}});
}

}  // namespace tessera::column_split
