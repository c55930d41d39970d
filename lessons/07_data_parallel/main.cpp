// Lesson 07: data parallelism, with the gradients summed in buckets while the backward goes on.
#include "07_data_parallel/harness/proof.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;
using data_parallel::Config;
using data_parallel::Trained;

namespace {

/// Three rows, two of them on rank 0; the loss is the mean over all three, so dY has a third in it.
std::string by_hand() {
  const Tensor x = Tensor::of(3, 2, {1, 2, 3, -1, 0, 3}), dy = Tensor::of(3, 1, {3, 6, -3});
  const Tensor x1 = x.row_range(0, 2), x2 = x.row_range(2, 3), dy1 = dy.row_range(0, 2),
               dy2 = dy.row_range(2, 3);
  const Tensor term1 = matmul(t(x1), dy1), term2 = matmul(t(x2), dy2);
  return "  By hand (two rows on rank 0, one on rank 1)\n" +
         side_by_side({"X1'", "dY1", "X1' dY1", "|", "X2'", "dY2", "X2' dY2", "dA, the sum"},
                      {Tensor::of(2, 2, {1, 3, 2, -1}),
                       dy1,
                       term1,
                       {},
                       Tensor::of(2, 1, {0, 3}),
                       dy2,
                       term2,
                       add(term1, term2)});
}

std::vector<Equation> picture(const Config& s) {
  using enum Block::Cut;
  const std::string n = std::to_string(s.model.tokens), k = std::to_string(s.model.width()),
                    f = std::to_string(2 * s.model.width() + 1);
  Equation forward{"forward: Y = X A", {}}, backward{"backward: dA = X' dY", {}};
  forward.add({"X", n, k, rows, 112, 50})
      .add({"A", k, f, replicated, 50, 80})
      .say("=")
      .add({"Y", n, f, rows, 112, 80});
  backward.add({"X'", k, n, columns, 50, 112}).add({"dY", n, f, rows, 112, 80}).say("=");
  backward.add({"terms", k, f, partial, 50, 80}).send("all-reduce").add({"dA", k, f, replicated, 50, 80});
  return {forward, backward};
}

}  // namespace

int main(int argc, char** argv) {
  Config s;
  gpt::ModelConfig& m = s.model;
  m.attention = {32, 4, 4, {}};
  m.layers = 4;
  m.attention.options.seq = 16;
  m.attention.options.batch = 10;
  App app(
      {"07", "data parallel",
       "[X1; X2] A = [X1 A; X2 A]    dA = X1' dY1 + X2' dY2    the loss is the mean over all ranks' tokens",
       "Why dA is a sum: every rank's rows used A. Why a plain one: the global number of tokens is in dY "
       "already.",
       format("data_parallel.hpp:{}", data_parallel::code_line)});
  app.size("--batch", m.attention.options.batch, "sequences of a step, shared out over the ranks");
  app.flags().size("--bucket", s.bucket, "bytes summed at a time, at least (64KiB)");
  app.flags().number("--layers", m.layers, 1, 4096, "blocks");
  app.size("--width", m.attention.width, "W");
  app.flags().number("--steps", s.steps, 0, 1 << 20, "of SGD, with momentum 0.9");
  app.size("--heads", m.attention.heads, "heads of W / heads columns");
  app.size("--seq", m.attention.options.seq, "tokens of a sequence");
  app.size("--vocab", m.vocabulary, "ids");
  app.flags().real("--lr", s.lr, 0, 1e3, "learning rate");
  Trained trained;
  const auto more = [&] {
    std::string text = format("{}{} of at least {} B, posted while the backward goes on\n", trained.buckets,
                              trained.buckets == 1 ? " bucket" : " buckets", s.bucket);
    if (app.options().stable) return text;
    return text + format("loss {} before, {} after {} steps\n", number(trained.losses.front()),
                         number(trained.losses.back()), s.steps);
  };
  return app.run(
      argc, argv,
      {.check =
           [&](int ranks) {
             const AttentionOptions& o = m.attention.options;
             m.attention.kv_heads = m.attention.heads;
             m.tokens = m.attention.tokens();
             if (m.tokens > 1 << 20)
               throw UsageError(format("--batch {} and --seq {} make {} tokens: up to {} would work", o.batch,
                                       o.seq, m.tokens, 1 << 20));
             if (m.width() % m.attention.heads != 0)
               throw UsageError(format("--heads {} does not divide --width {}: --width {} would work",
                                       m.attention.heads, m.width(),
                                       (m.width() / m.attention.heads + 1) * m.attention.heads));
             if (o.batch < ranks)
               throw UsageError(format(
                   "--batch {} leaves some of {} ranks without a sequence: --batch {} or more would work",
                   o.batch, ranks, ranks));
           },
       .prove =
           [&](Proof& proof, Communicator& comm) {
             const Trained mine = data_parallel::prove(proof, comm, s);
             if (comm.rank() == 0) trained = mine;
           },
       .by_hand = by_hand,
       .picture = [&](int) { return picture(s); },
       .more = more,
       .inexact = [] { return "a transformer block is exact nowhere: lessons 01 to 05 have it"; }});
}
