// What lesson 01 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include <cmath>
#include <functional>

#include "01_mlp/mlp.hpp"
#include "01_mlp/text_model.hpp"
#include "app/proof.hpp"

namespace tessera::mlp {

struct Sizes {
  std::int64_t tokens = 48, width = 96, ffn = 192;
};

/// The formula, line by line, for Tensor and for Bounded; lessons 02 to 04 cut it and are compared with it.
inline auto whole(Activation f) {
  return [f](const auto& in) {
    const auto x = in("X"), a = in("A"), c1 = in("c1"), b = in("B"), c2 = in("c2"), dy = in("dY");
    const auto pre = add_bias(matmul(x, a), c1);
    const auto h = activate(pre, f);
    const auto dpre = activate_backward(matmul(dy, t(b)), pre, f);
    return Named<std::decay_t<decltype(x)>>{{"H", h},
                                            {"Y", add_bias(matmul(h, b), c2)},
                                            {"dX", matmul(dpre, t(a))},
                                            {"dA", matmul(t(x), dpre)},
                                            {"dc1", sum_rows(dpre)},
                                            {"dB", matmul(t(h), dy)},
                                            {"dc2", sum_rows(dy)}};
  };
}

// begin differences
/// The largest distance of a gradient from central differences (L(w + h) - L(w - h)) / 2h of the loss L = sum
/// Y dY, in f64, over every element of every gradient of a small MLP; and the largest sum |Y dY|, which
/// scales the error.
inline std::pair<double, double> central_differences(std::uint64_t seed) {
  const auto make = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    return generate(seed, name, Slice::whole(rows, cols), DType::f64, Fill::uniform, 1);
  };
  const Tensor x = make("X", 5, 3), dy = make("dY", 5, 2);
  const Mlp model(make("A", 3, 4), make("c1", 1, 4), make("B", 4, 2), make("c2", 1, 2), Activation::gelu);
  Mlp::Saved saved;
  model.forward(x, saved);
  const Tensor dx = model.backward_input(dy, saved);
  model.backward_weight(saved);

  const std::vector<double> g = dy.values();
  double scale = 0, worst = 0;
  const auto loss = [&] {
    Mlp::Saved ignored;
    const std::vector<double> y = model.forward(x, ignored).values();
    double sum = 0, size = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * g[i], size += std::abs(y[i] * g[i]);
    scale = std::max(scale, size);
    return sum;
  };
  constexpr double h = 1e-5;
  for (const auto& pair : {std::pair{x, dx},
                           {model.a, model.da},
                           {model.c1, model.dc1},
                           {model.b, model.db},
                           {model.c2, model.dc2}}) {
    const Tensor& w = pair.first;
    const std::vector<double> start = w.values(), gradient = pair.second.values();
    for (std::size_t i = 0; i < start.size(); ++i) {
      const auto loss_at = [&](double value) {
        std::vector<double> moved = start;
        moved[i] = value;
        w.copy_from(Tensor::of(w.rows(), w.cols(), moved, DType::f64));
        return loss();
      };
      const double slope = (loss_at(start[i] + h) - loss_at(start[i] - h)) / (2 * h);
      const double error = std::abs(slope - gradient[i]);
      if (!(error <= worst)) worst = error;  // NaN stays
      w.copy_from(Tensor::of(w.rows(), w.cols(), start, DType::f64));
    }
  }
  return {worst, scale};
}
// end differences

inline void prove(Proof& proof, const Sizes& s) {
  const std::int64_t n = s.tokens, k = s.width, f = s.ffn, e = proof.element_bytes();
  const Activation activation = proof.exact() ? Activation::relu : Activation::gelu;  // gelu is exact nowhere
  const double a_scale = 1 / std::sqrt(static_cast<double>(k)),
               b_scale = 1 / std::sqrt(static_cast<double>(f));
  const auto all = [](std::int64_t rows, std::int64_t cols) { return Slice::whole(rows, cols); };
  const Tensor x = proof.input("X", "NK", all(n, k)), dy = proof.input("dY", "NK", all(n, k));
  const Mlp model(proof.weight("A", "KF", all(k, f), a_scale), proof.weight("c1", "1F", all(1, f)),
                  proof.weight("B", "FK", all(f, k), b_scale), proof.weight("c2", "1K", all(1, k)),
                  activation);
  Mlp::Saved saved;
  const Tensor y = model.forward(x, saved);
  const Tensor dx = model.backward_input(dy, saved);
  model.backward_weight(saved);
  proof.measure_memory();

  proof.result("H", "NF", "H  = f(X A + c1)", saved.h, all(n, f));
  proof.result("Y", "NK", "Y  = H B + c2", y, all(n, k));
  proof.result("dX", "NK", "dX = dP A', dP = (dY B') f'(P)", dx, all(n, k));
  proof.result("dA", "KF", "dA = X' dP", model.da, all(k, f));
  proof.result("dc1", "1F", "dc1 = sum dP", model.dc1, all(1, f));
  proof.result("dB", "FK", "dB = H' dY", model.db, all(f, k));
  proof.result("dc2", "1K", "dc2 = sum dY", model.dc2, all(1, k));
  proof.baseline(whole(activation));

  const std::int64_t weights = (2 * k + 1) * f + k, activations = n * (4 * k + 3 * f);
  proof.expect_memory(MemoryKind::weight, "A c1 B c2", weights * e, weights * e,
                      format("{} ((2 K + 1) F + K)", e));
  proof.expect_memory(MemoryKind::gradient, "dA dc1 dB dc2", weights * e, weights * e,
                      format("{} ((2 K + 1) F + K)", e));
  proof.expect_memory(MemoryKind::activation, "X dX Y dY P dP H", activations * e, activations * e,
                      format("{} N (4 K + 3 F)", e));
  if (proof.exact()) return;
  // Truncation h^2 |L'''| / 6 and cancellation u L / h are both below 1e-9 of the loss's terms;
  // 1e-7 leaves room.
  const auto [error, scale] = central_differences(5);
  proof.claim("gradients = central differences", error, 1e-7 * scale);
}

}  // namespace tessera::mlp
