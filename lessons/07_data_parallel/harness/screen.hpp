// What lesson 07 shows: an example by hand, and the picture of what is cut.
#pragma once

#include "07_data_parallel/harness/proof.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::data_parallel {

/// Three rows, two of them on rank 0; the loss is the mean over all three, so dY has a third in it.
inline std::string by_hand() {
  const Tensor x1 = Tensor::of(2, 2, {1, 2, 3, -1}), x2 = Tensor::of(1, 2, {0, 3}),
               dy1 = Tensor::of(2, 1, {3, 6}), dy2 = Tensor::of(1, 1, {-3});
  const Tensor term1 = matmul(t(x1), dy1), term2 = matmul(t(x2), dy2);
  const Tensor x1_transposed = Tensor::of(2, 2, {1, 3, 2, -1}), x2_transposed = Tensor::of(2, 1, {0, 3});
  return "  By hand (two rows on rank 0, one on rank 1)\n" +
         side_by_side({"X1'", "dY1", "X1' dY1", "|", "X2'", "dY2", "X2' dY2", "dA, the sum"},
                      {x1_transposed, dy1, term1, {}, x2_transposed, dy2, term2, add(term1, term2)});
}

inline std::vector<Equation> picture(const ModelConfig& model) {
  using enum Block::Cut;
  const std::string n = std::to_string(model.tokens), k = std::to_string(model.width()),
                    f = std::to_string(2 * model.width() + 1);
  Equation forward{"forward: Y = X A", {}}, backward{"backward: dA = X' dY", {}};
  forward.add({"X", n, k, rows, 112, 50}).add({"A", k, f, replicated, 50, 80}).say("=");
  forward.add({"Y", n, f, rows, 112, 80});
  backward.add({"X'", k, n, columns, 50, 112}).add({"dY", n, f, rows, 112, 80}).say("=");
  backward.add({"terms", k, f, partial, 50, 80}).send("all-reduce").add({"dA", k, f, replicated, 50, 80});
  return {forward, backward};
}

}  // namespace tessera::data_parallel
