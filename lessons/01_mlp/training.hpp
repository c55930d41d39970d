// The training run of lesson 01: batches drawn by the counter-based generator,
// so that it is the same on every device.
#pragma once

#include <algorithm>
#include <chrono>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "01_mlp/text_model.hpp"
#include "app/proof.hpp"
#include "report/table.hpp"

namespace tessera::mlp {

struct Training {
  std::string path;
  std::int64_t steps = 300;
  std::string text;                                    // its bytes
  std::vector<std::pair<std::int64_t, double>> curve;  // step, loss in nats
  double entropy = 0, final_loss = 0;
};

inline constexpr std::int64_t rows_a_step = 256;
inline double sum(const Tensor& losses) {
  double total = 0;
  for (const double loss : losses.values()) total += loss;
  return total;
}

/// The mean loss over 4096 positions of the text, spread evenly, or all where it is shorter.
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

/// Trains, checks that something was learnt, and books the optimiser's memory.
/// `bar`: draw the progress on stderr.
inline void train(Proof& proof, Training& run, bool bar) {
  TextModel model(proof.seed(), proof.dtype());
  const Random random(proof.seed(), "batches");
  const std::size_t room = run.text.size() - TextModel::context;
  std::int64_t after_warm_up = 0;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 1; step <= run.steps; ++step) {
    std::vector<std::size_t> positions;
    for (std::int64_t i = 0; i < rows_a_step; ++i)
      positions.push_back(TextModel::context +
                          random.bits(static_cast<std::uint64_t>(step * rows_a_step + i)) % room);
    const Tensor loss = model.step(TextModel::batch(run.text, positions), true, 3e-3, step);
    if (step == 1 || step % std::max<std::int64_t>(1, run.steps / 6) == 0)
      run.curve.emplace_back(step, sum(loss) / rows_a_step);
    if (step == 3) after_warm_up = Device::current()->system_allocations();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (bar && seconds > 2) std::cerr << progress_line("training", step, run.steps, seconds) << std::flush;
  }
  const std::int64_t asked = Device::current()->system_allocations() - after_warm_up;
  run.entropy = byte_entropy(run.text);
  run.final_loss = evaluate(model, run.text);

  proof.measure_memory();
  proof.expect_memory(MemoryKind::optimizer, "AdamW's moments", 2 * model.size() * proof.element_bytes(),
                      2 * model.size() * proof.element_bytes(),
                      format("{} x {} weights", 2 * proof.element_bytes(), model.size()));
  proof.claim("loss below the entropy of the bytes", run.final_loss, run.entropy,
              "It has not learnt enough yet: more --steps?");
  if (run.steps > 3) proof.claim("memory asked for after step 3", static_cast<double>(asked), 0);
  std::vector<double> losses;
  for (const auto& [step, loss] : run.curve) losses.push_back(loss);
  proof.record("loss", losses);
  proof.record("final_loss", std::vector{run.final_loss});
  proof.record("byte_entropy", std::vector{run.entropy});
}

}  // namespace tessera::mlp
