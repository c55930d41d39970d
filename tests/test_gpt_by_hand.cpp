// The GPT by hand computes what the core computes, its gradients are those of differences, and it learns.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <valarray>
#include <vector>

#include "ops/attention.hpp"

namespace gpt_by_hand {
#define main gpt_main  // a program of its own
#include "00_gpt/gpt.cpp"
#undef main

using tessera::Tensor;

Tensor of(const Matrix& m) {
  std::vector<double> values;
  for (const Row& row : m) values.insert(values.end(), std::begin(row), std::end(row));
  return Tensor::of(std::ssize(m), static_cast<std::int64_t>(m[0].size()), values, tessera::DType::f64);
}

void same(const Matrix& is, const Tensor& should_be, double bound = 1e-12) {
  const std::vector<double> values = of(is).values(), wanted = should_be.values();
  REQUIRE(values.size() == wanted.size());
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(std::abs(values[i] - wanted[i]) <= bound);
}

TEST_CASE("the GPT by hand: each piece is the core's") {
  const Gpt g;
  const Activations s = forward(g, tokenize("so far so good"));
  const Tensor ones = Tensor::of(1, 4, {1, 1, 1, 1}, tessera::DType::f64), zeros = tessera::scale(ones, 0);
  same(s.z, tessera::layer_norm(of(s.x), ones, zeros).y);
  same(s.z2, tessera::layer_norm(of(s.x2), ones, zeros).y);
  same(s.h, tessera::gelu(of(s.pre)));
  same(s.p, tessera::softmax(of(s.logits)));
  tessera::AttentionSaved saved;
  same(s.o, tessera::attention(of(s.q), of(s.k), of(s.v), {.seq = 4}, saved));
  const std::vector<int> next{1, 0, 2, 0};
  const tessera::CrossEntropy loss =
      tessera::cross_entropy(of(s.logits), Tensor::of(4, 1, {1, 0, 2, 0}, tessera::DType::i32));
  same(transposed({cross_entropy(s.p, next)}), loss.loss);
  for (const Matrix& shares : {s.shares, s.p})
    for (const Row& row : shares) CHECK(std::abs(row.sum() - 1) <= 1e-12);
}

TEST_CASE(
    "the GPT by hand: the gradient of the logits is that of differences, and no token sees a later one") {
  const Gpt g;
  Matrix logits = forward(g, tokenize("so far so good")).logits;
  const Matrix same_so_far = forward(g, tokenize("so far so so")).logits;
  for (std::size_t i = 0; i < 3; ++i) CHECK(abs(logits[i] - same_so_far[i]).max() == 0);
  CHECK(abs(logits[3] - same_so_far[3]).max() > 0.1);
  const std::vector<int> next{1, 0, 2, 0};
  const Matrix gradient = cross_entropy_backward(softmax(logits), next);
  const auto loss = [&] { return cross_entropy(softmax(logits), next).sum() / 4; };
  for (std::size_t i = 0; i < 4; ++i) CHECK(abs(gradient[i] - slope(logits[i], loss)).max() <= 1e-9);
}

TEST_CASE("the GPT by hand: AdamW is the core's") {
  Row w{1, -2}, m{0, 0}, v{0, 0};
  const Tensor w2 = of({w}), m2 = of({m}), v2 = of({v});
  for (int step = 1; step <= 3; ++step) {
    adamw(w, {0.5, step - 2.0}, m, v, step);
    tessera::adamw(w2, m2, v2, of({{0.5, step - 2.0}}), {.lr = 0.05}, step);
    same({w}, w2);
  }
}

}  // namespace gpt_by_hand
