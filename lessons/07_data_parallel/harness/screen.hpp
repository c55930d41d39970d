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
  return equations({{'N', {std::to_string(model.tokens), 112}},
                    {'W', {std::to_string(model.width()), 50}},
                    {'F', {std::to_string(2 * model.width() + 1), 80}}},
                   {{"forward: Y = X A", "X(N/p,W) A(W,F) = Y(N/p,F)"},
                    {"backward: dA = X' dY", "X'(W,N/p) dY(N/p,F) = +terms(W,F) all-reduce -> dA(W,F)"}});
}

/// The losses are those before every step and after the last.
inline std::string text(const std::vector<double>& losses, std::size_t buckets, const Config& s,
                        bool stable) {
  return format("{}{}, full at {} B, posted while the backward goes on\n", buckets,
                buckets == 1 ? " bucket" : " buckets", s.bucket) +
         (stable ? ""
                 : format("loss {} before, {} after {} steps\n", number(losses.front()),
                          number(losses.back()), s.steps));
}

}  // namespace tessera::data_parallel
