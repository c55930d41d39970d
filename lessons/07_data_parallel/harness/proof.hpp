// What lesson 07 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "07_data_parallel/replica.hpp"
#include "gpt/harness/proof.hpp"
#include "gpt/tokens.hpp"

namespace tessera::data_parallel {

struct Config {
  ModelConfig model;  // its options.batch and tokens are of the whole batch
  std::int64_t bucket = 64 << 10, steps = 20;
  double lr = 0.1;
};

/// What the gradient would be if each rank took the mean over its own rows, and the ranks then took the mean
/// of these means.
inline Tensor mean_of_means(const Inputs<Tensor>& in, const std::string& name, int p, std::int64_t seq) {
  const Tensor dy = in("dY").copy();
  for (int r = 0; r < p; ++r) {
    const Range own = own_rows(dy.rows(), r, p, seq);
    const Tensor rows = dy.row_range(own.begin, own.end);
    rows.copy_from(scale(rows, double(dy.rows()) / (own.size() * p)));
  }
  return name == "dc" ? sum_rows(dy) : matmul(t(in("X")), dy);
}

/// The identity by itself: one linear layer, its n rows cut between sequences.
inline void check_linear(Proof& proof, Communicator& comm, const ModelConfig& model) {
  const std::int64_t n = model.tokens, seq = model.seq(), w = model.width(), f = 2 * w + 1;
  const Range own = own_rows(n, comm.rank(), comm.size(), seq);
  const auto rows = [&](std::int64_t cols) { return Slice{n, cols, {own}, {{0, cols}}}; };
  const Slice a_slice = Slice::whole(w, f), c_slice = Slice::whole(1, f);
  const MemoryScope beside(MemoryKind::check);  // the memory shown is the model's
  const auto input = [&](const char* name, const char* axes, const Slice& slice) {
    return proof.input(name, axes, slice, 1, MemoryKind::check);
  };
  const Rows x(input("X", "NW", rows(w))), dy(input("dY", "NF", rows(f)));
  const Linear layer{Placed<Replicated>(input("A", "WF", a_slice)),
                     Placed<Replicated>(input("c", "1F", c_slice))};
  const Rows y = layer.forward(x), dx = layer.backward_input(dy);
  std::pair<Placed<Replicated>, Placed<Replicated>> gradients;
  in_phase(comm, "linear", [&] {
    layer.backward_weight(x, dy);
    gradients = layer.finish(DataParallel(comm));
  });
  proof.result("Y", "NF", "[X1; X2] A + c = [X1 A + c; X2 A + c]", y.local(), rows(f));
  proof.result("dX", "NW", "dX = [dY1 A'; dY2 A']", dx.local(), rows(w));
  proof.result("dA", "WF", "dA = X1' dY1 + X2' dY2", gradients.first.local(), a_slice);
  proof.result("dc", "1F", "dc = sum dY1 + sum dY2", gradients.second.local(), c_slice);
  const std::int64_t p = comm.size(), e = proof.wide_bytes();
  proof.expect_traffic("linear", "all_reduce", "dA, dc", 2, 2 * (p - 1) * (w + 1) * f * e,
                       format("2 (p-1) {} (W + 1) F", e));
  for (const std::string result : {"dA", "dc"})
    proof.mistake(
        result, format("{} is the mean of the ranks' means: a rank with fewer rows counted as much.", result),
        [=](const auto& in, int) { return mean_of_means(in, result, p, seq); });
}

/// The whole model on every rank, with the proof's weights. `alone` is a group of one rank.
inline Replica build(Proof& proof, const TensorParallel& alone, const Communicator& dp, const Config& s) {
  ModelConfig own = s.model;
  own.attention.options.batch =
      own_rows(s.model.attention.options.batch, dp.rank(), dp.size()).size();  // sequences
  return {own, alone, proof.dtype(), s.bucket, gpt::make_weights(proof, own)};
}

/// This rank's sequences of a batch.
inline Tokens own_tokens(const Tokens& batch, const Communicator& dp, std::int64_t seq) {
  return gpt::rows_of(batch, own_rows(batch.ids.rows(), dp.rank(), dp.size(), seq));
}

/// The baseline: the unsplit model's step, and the unsplit linear layer.
inline MeasuredReference reference(const Inputs<Tensor>& in, const ModelConfig& config, const Tokens& batch) {
  MeasuredReference whole = gpt::reference_step(in, config, batch);
  const Tensor x = in("X"), a = in("A"), dy = in("dY");
  whole.note("Y", add_bias(matmul(x, a), in("c")), largest_terms(x, a) + largest(in("c")));
  whole.note("dX", matmul(dy, t(a)), largest_terms(dy, t(a)));
  whole.note("dA", matmul(t(x), dy), largest_terms(t(x), dy));
  whole.note("dc", sum_rows(dy), largest(sum_rows(absolute(dy))));
  return whole;
}

/// Checks the loss and the gradients of the first step against the unsplit model's, and the memory.
inline void check_gradients(Proof& proof, const Config& s, const Replica& replica, const Tokens& batch,
                            double loss) {
  proof.measure_memory();
  gpt::check_step(proof, s.model, replica.parameters(), loss, "loss, the mean over all ranks' tokens",
                  "gradients, each the sum over the ranks");
  proof.measured_baseline([batch, model = s.model](const auto& in) { return reference(in, model, batch); });
  const std::int64_t weights = gpt::elements_of(s.model);
  const std::string whole = "Psi: the whole model on every rank";
  proof.expect_weights("weights", "gradients", weights, weights, whole);
  proof.expect_optimizer("SGD's velocity", 1, weights, weights, whole);
}

/// Checks what the steps have left: replicas with equal bits, and a loss that has not risen.
inline void check_training(Proof& proof, Communicator& dp, const Config& s, const Replica& replica,
                           const std::vector<double>& losses) {
  double apart = 0;
  for (const Parameter& one : replica.parameters())
    apart = std::max(apart, attention_heads::ranks_apart(dp, one.value));
  if (s.steps > 0)  // a check over 0 steps is no check
    proof.claim(format("replicas after {} steps: equal bits", s.steps), apart, 0,
                "a replica went its own way: was a gradient not summed?");
  const double rise = std::max(losses.back() - losses.front(), 0.0);  // NaN stays NaN
  if (s.steps > 0) proof.claim("the loss has not risen", rise, 0, "would a smaller --lr help?");
  for (const Parameter& one : replica.parameters())  // as a dump should show them
    one.value.copy_from(proof.other_slice(one.name, one.slice));

  const std::int64_t p = dp.size(), e = proof.wide_bytes(), steps = s.steps + 1,
                     buckets = replica.buckets().count();
  proof.expect_traffic("bwd", "all_reduce", "gradients", steps * buckets,
                       steps * 2 * (p - 1) * gpt::elements_of(s.model) * e,
                       format("{} steps x 2 (p-1) {} Psi", steps, e));
}

/// The lesson's run with its checks, as main makes it. Returns the loss before every step and after the last.
inline std::vector<double> prove(Proof& proof, Communicator& dp, const Config& s) {
  check_linear(proof, dp, s.model);
  const auto group = dp.split(dp.rank(), 0, "tp");
  const TensorParallel alone(*group);
  Replica replica = build(proof, alone, dp, s);
  const Tokens batch = gpt::random_tokens(s.model, proof.seed()), own = own_tokens(batch, dp, s.model.seq());
  proof.dump("ids", batch.ids), proof.dump("targets", batch.targets);
  std::vector<double> losses = {replica.gradients(own, dp)};
  check_gradients(proof, s, replica, batch, losses.front());
  for (std::int64_t step = 0; step < s.steps; ++step) {
    replica.step(s.lr, 0.9);
    losses.push_back(replica.gradients(own, dp));
  }
  check_training(proof, dp, s, replica, losses);
  return losses;
}

}  // namespace tessera::data_parallel
