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
  app.flags().size("--bucket", s.bucket, "sum the gradients in parts of at least so many bytes (64KiB)");
  app.flags().number("--layers", m.layers, 1, 4096, "blocks");
  app.flags().number("--steps", s.steps, 0, 1 << 20, "steps of SGD with momentum 0.9");
  app.flags().real("--lr", s.lr, 0, 1e3, "learning rate");
  gpt::add_size_flags(app, m);
  const auto check_sizes = [&](int ranks) {
    gpt::set_batch(m, sequences, 1);
    refuse_if(sequences < ranks,
              "--batch {} leaves some of {} ranks without a sequence: --batch {} or more would work",
              sequences, ranks, ranks);
  };

  std::string more;
  const auto lesson = [&](Proof& proof, Communicator& dp) {
    check_linear(proof, dp, m);  // one layer by itself: data_parallel.hpp

    const auto group = dp.split(dp.rank(), 0, "tp");
    const TensorParallel alone(*group);                         // no matrix is cut
    Replica replica = build(proof, alone, dp, s);               // the whole model on every rank
    const Tokens batch = gpt::random_tokens(m, proof.seed());   // the same on every rank
    const Tokens own = own_tokens(batch, dp, m.seq());          // this rank's sequences of it
    std::vector<double> losses = {replica.gradients(own, dp)};  // forward, backward, all-reduces: replica.hpp
    check_gradients(proof, s, replica, batch, losses.front());  // against the unsplit model
    for (std::int64_t step = 0; step < s.steps; ++step) {
      replica.step(s.lr, 0.9);
      losses.push_back(replica.gradients(own, dp));
    }
    check_training(proof, dp, s, replica, losses);  // equal replicas, and a loss that falls

    if (dp.rank() == 0) more = text(losses, replica.buckets().count(), s, app.options().stable);
  };
  return app.run(argc, argv,
                 {.check = check_sizes,
                  .prove = lesson,
                  .by_hand = by_hand,
                  .picture = [&](int) { return picture(m); },
                  .more = [&] { return more; },
                  .inexact = gpt::inexact});
}
