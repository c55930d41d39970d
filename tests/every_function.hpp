// Shared by the tests that compute everything twice: on the CPU and on a GPU, with one thread and with two.
#pragma once

#include <algorithm>
#include <vector>

#include "ops/ops.hpp"

namespace tessera::test {

using Results = std::vector<std::vector<double>>;

/// What every function of ops.hpp but the products gives, on operands from make(name, rows, cols): most are
/// (n, f). `exact`, where the operands are integers, leaves out the functions whose results are not integers.
template <class Make>
Results every_function(std::int64_t n, std::int64_t f, const Make& make, bool exact = false) {
  std::vector<double> seen_ids, target_ids;  // some of the first are outside of the table
  for (std::int64_t i = 0; i < n; ++i) {
    seen_ids.push_back(static_cast<double>((i * i + 3) % 11 + i % 3 - 1));
    target_ids.push_back(static_cast<double>((i * i + 3) % f));
  }
  const Tensor seen = Tensor::of(n, 1, seen_ids, DType::i32),
               targets = Tensor::of(n, 1, target_ids, DType::i32);
  const Tensor x = make("x", n, f), y = make("y", n, f), c = make("c", 1, f), row = make("row", 1, f);
  const Tensor sum = make("sum", n, f), dtable = make("dtable", 11, f);
  Results results;
  const auto keep = [&](const auto&... tensors) { (results.push_back(tensors.values()), ...); };
  add_to(sum, x), add_sum_rows(row, x), add_embedding_backward(dtable, x, seen);
  keep(sum, row, dtable, add_bias(x, c), sum_rows(x), add(x, y), scale(x, -3), relu(x), relu_backward(y, x));
  keep(cast(x, DType::f32), cast(x, DType::f64), embedding(seen, make("table", 11, f)));
  keep(scale_rows(x, make("factors", n, 1)), row_dots(x, y));
  results.push_back({sum_of_squares({x.contiguous(), y.contiguous(), c.contiguous()}) /
                     static_cast<double>(std::max<std::int64_t>(1, 2 * n * f))});
  if (exact) return results;
  const CrossEntropy loss = cross_entropy(x, targets);
  const LayerNorm norm = layer_norm(x, c, c);
  const Tensor dgamma = make("dgamma", 1, f), dbeta = make("dbeta", 1, f), p = softmax(x);
  add_layer_norm_weights(dgamma, dbeta, y, norm);
  keep(gelu(x), gelu_backward(y, x), dropout(x, 0.3, 1), p, softmax_backward(y, p));
  keep(loss.loss, loss.probabilities, cross_entropy_backward(loss, targets, 5 * n + 1));
  keep(norm.y, norm.mean, norm.inverse_deviation, layer_norm_backward(y, norm, c), dgamma, dbeta);
  const Tensor w = make("w", n, f), v = make("v", n, f), w2 = make("w", n, f), mean = make("mean", n, f);
  const Tensor square = Tensor::zeros(n, f, x.dtype());
  sgd(w, v, y, 0.1, 0.9), adamw(w2, mean, square, y, {}, 3);
  keep(w, v, w2, mean, square);
  return results;
}

}  // namespace tessera::test
