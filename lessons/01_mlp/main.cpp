// Lesson 01: an MLP on one device, forward, backward, and trained on real text.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>

#include "01_mlp/proof.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;

namespace {

struct Training {
  std::string path;
  std::int64_t steps = 300;
  std::string text;                                    // its bytes
  std::vector<std::pair<std::int64_t, double>> curve;  // step, loss in nats
  double entropy = 0, final_loss = 0;
};

constexpr std::int64_t rows_a_step = 256;
double bits(double nats) { return nats / std::log(2.0); }

double sum(const Tensor& losses) {
  double total = 0;
  for (const double loss : losses.values()) total += loss;
  return total;
}

/// The mean loss over 4096 positions of the text, spread evenly, or all where it is shorter.
double evaluate(mlp::TextModel& model, const std::string& text) {
  const std::size_t room = text.size() - mlp::TextModel::context, count = std::min<std::size_t>(4096, room);
  double total = 0;
  for (std::size_t begin = 0; begin < count; begin += rows_a_step) {
    std::vector<std::size_t> positions;
    for (std::size_t i = begin; i < std::min<std::size_t>(begin + rows_a_step, count); ++i)
      positions.push_back(mlp::TextModel::context + i * room / count);
    total += sum(model.step(mlp::TextModel::batch(text, positions), false, 0, 0));
  }
  return total / static_cast<double>(count);
}

void train(Proof& proof, Training& run, std::uint64_t seed, DType dtype, bool bar) {
  mlp::TextModel model(seed, dtype);
  const Random random(seed, "batches");
  const std::size_t room = run.text.size() - mlp::TextModel::context;
  std::int64_t after_warm_up = 0;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 1; step <= run.steps; ++step) {
    std::vector<std::size_t> positions;
    for (std::int64_t i = 0; i < rows_a_step; ++i)
      positions.push_back(mlp::TextModel::context +
                          random.bits(static_cast<std::uint64_t>(step * rows_a_step + i)) % room);
    const Tensor loss = model.step(mlp::TextModel::batch(run.text, positions), true, 3e-3, step);
    if (step == 1 || step % std::max<std::int64_t>(1, run.steps / 6) == 0)
      run.curve.emplace_back(step, sum(loss) / rows_a_step);
    if (step == 3) after_warm_up = Device::current()->system_allocations();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (bar && seconds > 2) std::cerr << progress_line("training", step, run.steps, seconds) << std::flush;
  }
  const std::int64_t asked = Device::current()->system_allocations() - after_warm_up;
  run.entropy = mlp::byte_entropy(run.text);
  run.final_loss = evaluate(model, run.text);

  proof.measure_memory();
  proof.expect_memory(MemoryKind::optimizer, "AdamW's moments", 2 * model.size() * proof.element_bytes(),
                      2 * model.size() * proof.element_bytes(),
                      str(2 * proof.element_bytes(), " x ", model.size(), " weights"));
  proof.claim("loss below the entropy of the bytes", run.final_loss, run.entropy);
  if (run.steps > 3) proof.claim("memory asked for after step 3", static_cast<double>(asked), 0);
  std::vector<double> losses;
  for (const auto& [step, loss] : run.curve) losses.push_back(loss);
  proof.record("loss", losses);
  proof.record("final_loss", {run.final_loss});
  proof.record("byte_entropy", {run.entropy});
}

std::string trained(const Training& run, bool stable) {
  std::string text =
      str("  It reads 8 bytes and guesses the next one: ", run.text.size(), " bytes of ", run.path, "\n");
  std::vector<std::vector<std::string>> rows = {{"step", "loss", "bits a byte"}};
  for (const auto& [step, loss] : run.curve)
    rows.push_back({std::to_string(step), number(loss), number(bits(loss))});
  rows.push_back({"end", number(run.final_loss), number(bits(run.final_loss))});
  const std::string entropy = str("  entropy of the bytes alone: ", number(run.entropy), " nats, ",
                                  number(bits(run.entropy)), " bits a byte\n");
  if (stable)
    return text + str("  after ", run.steps, " steps the loss is below the entropy of the bytes alone\n");
  return text + table(rows, "rrr", 4) + entropy;
}

std::string by_hand() {
  const Tensor x = Tensor::of(2, 2, {1, 2, 3, -1}), a = Tensor::of(2, 2, {2, 1, 1, -1}),
               b = Tensor::of(2, 2, {1, 3, 2, -1});
  const Tensor pre = matmul(x, a), h = relu(pre), dy = Tensor::of(2, 2, {1, 0, 0, 1}), dh = matmul(dy, t(b));
  return "  By hand (f = relu, c1 = c2 = 0)\n" +
         side_by_side({{"X", Matrix::from(x)},
                       {"A", Matrix::from(a)},
                       {"X A", Matrix::from(pre)},
                       {"H", Matrix::from(h)},
                       {"B", Matrix::from(b)},
                       {"Y", Matrix::from(matmul(h, b))},
                       {"dY", Matrix::from(dy)},
                       {"dH", Matrix::from(dh)},
                       {"dP", Matrix::from(relu_backward(dh, pre))},
                       {"dX", Matrix::from(matmul(relu_backward(dh, pre), t(a)))}},
                      4);
}

std::vector<Equation> picture(const mlp::Sizes& s) {
  const std::string n = std::to_string(s.tokens), k = std::to_string(s.width), f = std::to_string(s.ffn);
  Equation forward{"forward: Y = f(X A + c1) B + c2", {}};
  forward.add({"X", n, k})
      .say("x")
      .add({"A", k, f})
      .say("f")
      .say("=")
      .add({"H", n, f})
      .say("x")
      .add({"B", f, k})
      .say("=")
      .add({"Y", n, k});
  return {forward};
}

}  // namespace

int main(int argc, char** argv) {
  mlp::Sizes sizes;
  Training run;
  for (const char* path : {"README.md", "/usr/share/common-licenses/GPL-3"})
    if (std::filesystem::exists(path)) run.path = path;
  App app({"01", "MLP", "Y = f(X A + c1) B + c2    X (N, K)  A (K, F)  B (F, K)",
           "Why the backward needs no tape: each layer keeps its own Saved, and hands dX to the one before.",
           str("mlp.hpp:", mlp::code_line)},
          App::one_rank);
  app.size("--tokens", sizes.tokens, "N, rows of X");
  app.size("--width", sizes.width, "K, columns of X and of Y");
  app.size("--ffn", sizes.ffn, "F, columns of A and rows of B");
  app.text("--text", run.path, "FILE", "what to train on");
  app.size("--steps", run.steps, "steps of training");
  return app.run(argc, argv,
                 {.check = [&] { run.text = mlp::read_text(run.path); },
                  .prove =
                      [&](Proof& proof, Communicator&) {
                        mlp::prove(proof, sizes);
                        if (!proof.exact())
                          train(proof, run, proof.seed(), proof.dtype(), isatty(STDERR_FILENO) == 1);
                      },
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(sizes); },
                  .more = [&] { return app.options().exact ? "" : trained(run, app.options().stable); }});
}
