// What lesson 01 shows: an example by hand, the picture, and the training run.
#pragma once

#include "01_mlp/harness/sizes.hpp"
#include "01_mlp/training.hpp"
#include "report/table.hpp"

namespace tessera::mlp {

inline std::string by_hand() {
  const Tensor x = Tensor::of(2, 2, {1, 2, 3, -1}), a = Tensor::of(2, 2, {2, 1, 1, -1}),
               b = Tensor::of(2, 2, {1, 3, 2, -1});
  const Tensor pre = matmul(x, a), h = relu(pre), dy = Tensor::of(2, 2, {1, 0, 0, 1}), dh = matmul(dy, t(b));
  const Tensor dp = relu_backward(dh, pre), dx = matmul(dp, t(a));
  return "  By hand (f = relu, c1 = c2 = 0)\n" +
         side_by_side({"X", "A", "X A", "H", "B", "Y", "dY", "dH", "dU", "dX"},
                      {x, a, pre, h, b, matmul(h, b), dy, dh, dp, dx});
}

inline std::vector<Equation> picture(const LayerSizes& s) {
  return equations(s.sides(50, 64, 112), {{"forward: Y = f(X A + c1) B + c2",
                                           "f( X(N,W) A(W,F) + c1) = H(N,F) B(F,W) + c2 = Y(N,W)"}});
}

/// The table of losses. The stable form says only that the model has learnt something.
inline std::string text_of(const TrainingConfig& config, const TrainingRun& run, bool stable) {
  const auto bits = [](double nats) { return number(nats / std::log(2.0)); };
  const std::string model = "  The model reads 8 bytes and predicts the next one. Its text is " + config.path;
  if (stable)
    return format("{}\n  after {} steps the loss is below {}\n", model, config.steps,
                  config.beats_entropy ? "the entropy of the bytes alone" : "that of the first step");
  Cells rows = {{"step", "loss", "bits a byte"}};
  for (const auto& [step, loss] : run.curve) rows.push_back({std::to_string(step), number(loss), bits(loss)});
  rows.push_back({"end", number(run.final_loss), bits(run.final_loss)});
  return format("{}, {} bytes\n{}  entropy of the bytes alone: {} nats, {} bits a byte\n", model,
                config.text.size(), table(rows, "rrr", 4), number(run.entropy), bits(run.entropy));
}

}  // namespace tessera::mlp
