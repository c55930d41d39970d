// The GPT by hand computes what the core computes, its gradients are those of differences, and it learns.
#define main gpt_main  // a program of its own
#include "00_gpt/gpt.cpp"
#undef main

#include <doctest/doctest.h>

#include <fstream>

#include "ops/attention.hpp"

namespace {

using tessera::Tensor;

Tensor of(const Matrix& m) {
  std::vector<double> values;
  for (const Row& row : m) values.insert(values.end(), std::begin(row), std::end(row));
  return Tensor::of(std::ssize(m), static_cast<std::int64_t>(m[0].size()), values, tessera::DType::f64);
}

void same(const Matrix& is, const Tensor& should_be) {
  const std::vector<double> values = of(is).values(), wanted = should_be.values();
  REQUIRE(values.size() == wanted.size());
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(std::abs(values[i] - wanted[i]) <= 1e-12);
}

TEST_CASE("the GPT by hand: each piece is the core's, and no token sees a later one") {
  const Gpt g;
  const Activations s = forward(g, tokenize("so far so good"));
  const Tensor ones = of({Row(1, 4)}), zeros = of({Row(4)});
  same(s.ln, tessera::layer_norm(of(s.x), ones, zeros).y);
  same(s.h, tessera::gelu(of(s.pre)));
  tessera::AttentionSaved saved;
  same(s.o, tessera::attention(of(s.q), of(s.k), of(s.v), {.seq = 4}, saved));
  const auto loss = tessera::cross_entropy(of(s.logits), Tensor::of(4, 1, {1, 0, 2, 0}, tessera::DType::i32));
  same(s.p, loss.probabilities);
  same(transposed({cross_entropy(s.p, {1, 0, 2, 0})}), loss.loss);
  for (const Row& row : s.shares) CHECK(std::abs(row.sum() - 1) <= 1e-12);
  std::ostringstream picture;  // which is drawn once, of these numbers
  picture << std::ifstream(TESSERA_SOURCE_DIR "/notebooks_md/pictures/00_gpt_head.svg").rdbuf();
  for (const Matrix& m : {s.scores, s.masked, s.shares})
    for (const Row& row : m)
      for (const double value : row) {
        std::ostringstream text;
        text << ">" << std::round(1000 * value) / 1000 << "<";
        CHECK_MESSAGE(picture.str().find(text.str()) != std::string::npos, text.str());
      }
  const Matrix other = forward(g, tokenize("so far so so")).logits;
  for (std::size_t i = 0; i < 4; ++i) CHECK((abs(s.logits[i] - other[i]).max() == 0) == (i < 3));
}

TEST_CASE("the GPT by hand: the gradient of the logits is that of differences, and AdamW is the core's") {
  const std::vector<int> next{1, 0, 2, 0};
  Matrix logits = forward(Gpt{}, tokenize("so far so good")).logits;
  const Matrix gradient = cross_entropy_backward(softmax(logits), next);
  const auto loss = [&] { return cross_entropy(softmax(logits), next).sum() / 4; };
  for (std::size_t i = 0; i < 4; ++i) CHECK(abs(gradient[i] - slope(logits[i], loss)).max() <= 1e-9);
  Row m(3), v(3);
  const Tensor w = of({logits[0]}), m2 = of({m}), v2 = of({v});
  for (int step = 1; step <= 3; ++step) {
    adamw(logits[0], gradient[step], m, v, step);
    tessera::adamw(w, m2, v2, of({gradient[step]}), {.lr = 0.05}, step);
    same({logits[0]}, w);
  }
}

}  // namespace
