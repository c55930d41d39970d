// What lesson 01 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include <cmath>

#include "01_mlp/harness/sizes.hpp"
#include "01_mlp/training.hpp"
#include "app/proof.hpp"

namespace tessera::mlp {

using Sizes = LayerSizes;

/// The formula, line by line, for Tensor and for Bounded. Lesson 04 cuts it and is compared with it.
inline auto reference(Activation f) {
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

/// Compares every element of every gradient of a small MLP, in f64, with the central difference
/// (L(w + h) - L(w - h)) / 2h of the loss L = sum Y dY. Returns the largest distance, and the largest
/// sum |Y dY|, which scales the error.
inline std::pair<double, double> central_differences(std::uint64_t seed) {
  const auto make = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    return generate(seed, name, Slice::whole(rows, cols), DType::f64, Fill::uniform, 1);
  };
  const Tensor x = make("X", 5, 3), dy = make("dY", 5, 2);
  const Mlp model{make("A", 3, 4), make("c1", 1, 4), make("B", 4, 2), make("c2", 1, 2), Activation::gelu};
  const Tensor dx = step(model, x, dy).dx;
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
      if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;  // a NaN is not lost
      w.copy_from(Tensor::of(w.rows(), w.cols(), start, DType::f64));
    }
  }
  return {worst, scale};
}

/// X (N, W), dY (N, W) and the MLP between them.
struct Built {
  Tensor x, dy;
  Mlp model;
};

inline Built build(Proof& proof, const Sizes& s) {
  proof.axes(s.axes());
  const double a_scale = 1 / std::sqrt(s.width), b_scale = 1 / std::sqrt(s.ffn);
  return {proof.input<Replicated>("X", "NW").local(),
          proof.input<Replicated>("dY", "NW").local(),
          {proof.weight<Replicated>("A", "WF", a_scale), proof.weight<Replicated>("c1", "1F"),
           proof.weight<Replicated>("B", "FW", b_scale), proof.weight<Replicated>("c2", "1W"),
           proof.exact() ? Activation::relu : Activation::gelu}};  // gelu is exact nowhere
}

inline void check(Proof& proof, const Sizes& s, const Mlp& model, const Step& found) {
  proof.measure_memory();
  for (const auto& [name, axes, identity, value] : {std::tuple{"H", "NF", "H  = f(X A + c1)", found.saved.h},
                                                    {"Y", "NW", "Y  = H B + c2", found.y},
                                                    {"dX", "NW", "dX = dU A', dU = (dY B') f'(U)", found.dx},
                                                    {"dA", "WF", "dA = X' dU", model.da},
                                                    {"dc1", "1F", "dc1 = sum dU", model.dc1},
                                                    {"dB", "FW", "dB = H' dY", model.db},
                                                    {"dc2", "1W", "dc2 = sum dY", model.dc2}})
    proof.result(name, axes, identity, Placed<Replicated>(value));
  proof.baseline(reference(model.f));

  const std::int64_t n = s.tokens, w = s.width, f = s.ffn, e = proof.element_bytes();
  const std::int64_t weights = (2 * w + 1) * f + w, activations = n * (4 * w + 3 * f);
  proof.expect_weights("A c1 B c2", "dA dc1 dB dc2", weights, weights, "((2 W + 1) F + W)");
  proof.expect_memory(MemoryKind::activation, "X dX Y dY U dU H", activations * e, activations * e,
                      format("{} N (4 W + 3 F)", e));
  if (proof.exact()) return;
  // The truncation h^2 |L'''| / 6 and the cancellation u L / h are both below 1e-9 of the loss's terms;
  // 1e-7 leaves room.
  const auto [error, scale] = central_differences(5);
  proof.claim("gradients = central differences", error, 1e-7 * scale);
}

/// Checks that the model has learnt something and that a step in the steady state allocates nothing.
inline void check_training(Proof& proof, const TextModel& model, const TrainingConfig& config,
                           const TrainingRun& run) {
  proof.measure_memory();
  proof.expect_optimizer("AdamW's moments", 2, model.size(), model.size(),
                         format("x {} weights", model.size()));
  proof.claim("loss below that of the first step", run.final_loss, run.curve.front().second);
  if (config.beats_entropy) proof.claim("loss below the entropy of the bytes", run.final_loss, run.entropy);
  if (config.steps > 3) proof.claim("memory asked for after step 3", run.late_allocations, 0);
  std::vector<double> losses;
  for (const auto& [step, loss] : run.curve) losses.push_back(loss);
  proof.record("loss", losses);
  proof.record("final_loss", std::vector{run.final_loss});
  proof.record("byte_entropy", std::vector{run.entropy});
}

/// The comparison with the formula, as main makes it.
inline void prove(Proof& proof, const Sizes& s) {
  const Built built = build(proof, s);
  check(proof, s, built.model, step(built.model, built.x, built.dy));
}

}  // namespace tessera::mlp
