// The training run of lesson 01. A counter-based generator draws the batches, so that the run is the same on
// every device.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "01_mlp/text_model.hpp"

namespace tessera::mlp {

struct TrainingConfig {
  std::string path, text;  // the file, and its bytes
  std::int64_t steps = 300;
  bool beats_entropy = true;  // the loss must fall below byte_entropy; on random bytes no model gets there
};

/// What a training run has found.
struct TrainingRun {
  std::vector<std::pair<std::int64_t, double>> curve;  // step, loss in nats
  double entropy = 0, final_loss = 0;                  // in nats
  std::int64_t late_allocations = 0;  // how often the system was asked for memory after step 3
};

inline constexpr std::int64_t rows_a_step = 256;  // N, the predictions of a batch
inline double sum(const Tensor& losses) {
  double total = 0;
  for (const double loss : losses.values()) total += loss;
  return total;
}

/// The batch of one step: 256 positions of the text, drawn independently of each other.
inline Batch draw_batch(const std::string& text, const Random& random, std::int64_t step) {
  std::vector<std::size_t> positions;
  for (std::int64_t i = 0; i < rows_a_step; ++i)
    positions.push_back(TextModel::context + random.bits(static_cast<std::uint64_t>(step * rows_a_step + i)) %
                                                 (text.size() - TextModel::context));
  return TextModel::batch(text, positions);
}

/// The mean loss in nats over 4096 positions that are spread evenly over the text, or over all positions
/// where it has fewer.
inline double evaluate(TextModel& model, const std::string& text) {
  const std::size_t room = text.size() - TextModel::context, count = std::min<std::size_t>(4096, room);
  double total = 0;
  for (std::size_t begin = 0; begin < count; begin += rows_a_step) {
    std::vector<std::size_t> positions;
    for (std::size_t i = begin; i < std::min<std::size_t>(begin + rows_a_step, count); ++i)
      positions.push_back(TextModel::context + i * room / count);
    total += sum(model.step(TextModel::batch(text, positions), false, 0, 0));
  }
  return total / static_cast<double>(count);
}

/// Trains the model for config.steps steps. Calls `on_progress` with the number of steps done.
inline TrainingRun train(TextModel& model, const TrainingConfig& config, std::uint64_t seed,
                         const std::function<void(std::int64_t done)>& on_progress) {
  TrainingRun run;
  const Random random(seed, "batches");
  std::int64_t after_warm_up = 0;  // the first steps fill the memory pool
  for (std::int64_t step = 1; step <= config.steps; ++step) {
    const Batch batch = draw_batch(config.text, random, step);
    const Tensor loss = model.step(batch, true, 3e-3, step);  // (256, 1)  forward, backward, AdamW
    if (step == 1 || step % std::max<std::int64_t>(1, config.steps / 6) == 0)
      run.curve.emplace_back(step, sum(loss) / rows_a_step);
    if (step == 3) after_warm_up = Device::current()->system_allocations();
    on_progress(step);
  }
  run.late_allocations = Device::current()->system_allocations() - after_warm_up;
  run.entropy = byte_entropy(config.text);
  run.final_loss = evaluate(model, config.text);
  return run;
}

}  // namespace tessera::mlp
