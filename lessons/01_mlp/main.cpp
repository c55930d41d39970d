// Lesson 01: an MLP on one device, forward, backward, and trained on real text.
#include <unistd.h>

#include "01_mlp/harness/proof.hpp"
#include "01_mlp/training.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;

namespace {

double bits(double nats) { return nats / std::log(2.0); }

std::string trained(const mlp::Training& run, bool stable) {
  std::string text = format("  It reads 8 bytes and guesses the next one, trained on {}{}\n", run.path,
                            stable ? "" : format(", {} bytes", run.text.size()));
  std::vector<std::vector<std::string>> rows = {{"step", "loss", "bits a byte"}};
  for (const auto& [step, loss] : run.curve)
    rows.push_back({std::to_string(step), number(loss), number(bits(loss))});
  rows.push_back({"end", number(run.final_loss), number(bits(run.final_loss))});
  const std::string entropy = format("  entropy of the bytes alone: {} nats, {} bits a byte\n",
                                     number(run.entropy), number(bits(run.entropy)));
  if (stable)
    return text + format("  after {} steps the loss is below the entropy of the bytes alone\n", run.steps);
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
  using enum Block::Cut;
  forward.say("f(").add({"X", n, k, replicated, 50, 64}).add({"A", k, f, replicated, 64, 112}).say("+ c1) =");
  forward.add({"H", n, f, replicated, 50, 112}).add({"B", f, k, replicated, 112, 64}).say("+ c2 =");
  forward.add({"Y", n, k, replicated, 50, 64});
  return {forward};
}

}  // namespace

int main(int argc, char** argv) {
  mlp::Sizes sizes;
  mlp::Training run;
  for (const char* path : {"README.md", "/usr/share/common-licenses/GPL-3"})
    if (std::filesystem::exists(path)) run.path = path;
  App app({"01", "MLP", "Y = f(X A + c1) B + c2    X (N, K)  A (K, F)  B (F, K)",
           "Why the backward needs no tape: each layer keeps its own Saved, and hands dX to the one before.",
           format("mlp.hpp:{}", mlp::code_line), "Code = formula?"},
          App::one_rank);
  app.size("--tokens", sizes.tokens, "N, rows of X");
  app.size("--width", sizes.width, "K, columns of X and of Y");
  app.size("--ffn", sizes.ffn, "F, columns of A and rows of B");
  app.flags().text("--text", run.path, "FILE", "what to train on");
  app.size("--steps", run.steps, "steps of training");
  return app.run(argc, argv,
                 {.check = [&](int) { run.text = mlp::read_text(run.path); },
                  .prove =
                      [&](Proof& proof, Communicator&) {
                        mlp::prove(proof, sizes);
                        if (!proof.exact()) mlp::train(proof, run, isatty(STDERR_FILENO) == 1);
                      },
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(sizes); },
                  .more = [&] { return app.options().exact ? "" : trained(run, app.options().stable); }});
}
