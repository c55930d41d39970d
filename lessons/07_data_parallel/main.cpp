// Lesson 07: data parallelism, with the gradients summed in buckets while the backward goes on.
#include "07_data_parallel/harness/screen.hpp"
#include "gpt/harness/command_line.hpp"

using namespace tessera;
using namespace tessera::data_parallel;

int main(int argc, char** argv) {
  Config s;
  ModelConfig& m = s.model;
  m = {{32, 4, 4, {.batch = 10, .seq = 16}}, 4};
  std::int64_t& sequences = m.attention.options.batch;
  App app(
      {"07", "data parallel",
       "[X1; X2] A = [X1 A; X2 A]    dA = X1' dY1 + X2' dY2    the loss is the mean over all ranks' tokens",
       "Why dA is a sum: every rank's rows used A. Why a plain one: the global number of tokens is in dY "
       "already.",
       format("data_parallel.hpp:{}", code_line)});
  app.size("--batch", sequences, "sequences of a step, shared out over the ranks");
  app.flags().size("--bucket", s.bucket, "bytes summed at a time, at least (64KiB)");
  app.flags().number("--layers", m.layers, 1, 4096, "blocks");
  app.flags().number("--steps", s.steps, 0, 1 << 20, "of SGD, with momentum 0.9");
  app.flags().real("--lr", s.lr, 0, 1e3, "learning rate");
  gpt::add_size_flags(app, m);
  const auto check_sizes = [&](int ranks) {
    gpt::set_batch(m, sequences, 1);
    refuse_if(sequences < ranks,
              "--batch {} leaves some of {} ranks without a sequence: --batch {} or more would work",
              sequences, ranks, ranks);
  };

  Trained trained;
  const auto lesson = [&](Proof& proof, Communicator& dp) {
    const Trained found = prove(proof, dp, s);  // gradients, then training: replica.hpp, harness/proof.hpp
    if (dp.rank() == 0) trained = found;
  };
  return app.run(argc, argv,
                 {.check = check_sizes,
                  .prove = lesson,
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(m); },
                  .more = [&] { return text(trained, s, app.options().stable); },
                  .inexact = gpt::inexact});
}
