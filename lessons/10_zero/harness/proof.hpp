// What lesson 10 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "10_zero/replica.hpp"
#include "app/proof.hpp"
#include "gpt/harness/reference.hpp"
#include "gpt/tokens.hpp"

namespace tessera::zero {

struct Config {
  ZeroConfig training;  // model.attention.options.batch: sequences of the whole batch
  int microbatches = 1;
  std::int64_t steps = 20;
};

/// The whole batch on the host, and what this rank computes of it.
struct Batch {
  Tokens whole;
  std::vector<Tokens> own;
};

/// The sequences of rank `rank`: a multiple of m of them, since each microbatch has equally many.
inline Range own_sequences(const Config& s, int rank, int ranks) {
  return data_parallel::own_rows(s.training.model.attention.options.batch, rank, ranks, s.microbatches);
}

inline Batch make_batch(const Config& s, const Communicator& dp, std::uint64_t seed) {
  const std::int64_t seq = s.training.model.seq();
  const Range mine = own_sequences(s, dp.rank(), dp.size());
  Batch batch{gpt::random_tokens(s.training.model, seed), {}};
  const auto rows = [&](const Tensor& x) { return x.row_range(mine.begin * seq, mine.end * seq); };
  batch.own = gpt::microbatches_of({rows(batch.whole.ids), rows(batch.whole.targets)}, s.microbatches);
  return batch;
}

/// A replica with the initial weights of the proof, whatever its stage. Peaks of memory count from here on.
inline ZeroReplica make_replica(const Proof& proof, const TensorParallel& alone, Communicator& dp, Config s,
                                int stage) {
  s.training.stage = stage;
  s.training.model.attention.options.batch = own_sequences(s, dp.rank(), dp.size()).size() / s.microbatches;
  ZeroReplica made(s.training, alone, dp, proof.dtype(), [&](const std::string& name, const Slice& slice) {
    const MemoryScope scope(MemoryKind::check);
    return proof.other_slice(name, slice);
  });
  if (MemoryScope::current() != MemoryKind::check) Device::current()->memory.reset_peak();
  return made;
}

/// Trains on the same batch in every step. Returns the loss before each step.
inline std::vector<double> train(ZeroReplica& replica, const Batch& batch, const Config& s,
                                 Communicator& dp) {
  const auto tokens = static_cast<double>(s.training.model.tokens);
  std::vector<double> losses;
  for (std::int64_t step = 0; step < s.steps; ++step) {
    losses.push_back(sum_over(dp, replica.gradients(batch.own)) / tokens);
    replica.step();
  }
  return losses;
}

/// The row that the ranks own in shards, whole on every rank; at stage 0 it is that already.
inline Tensor whole_row(const Tensor& own, int stage, Communicator& dp) {
  const CheckScope scope(dp);
  return stage == 0 ? own.copy() : dp.all_gather(own, 1);
}

/// The loss and every gradient of one step against those of the unsplit model.
inline void check_first_step(Proof& proof, const TensorParallel& alone, Communicator& dp, const Config& s,
                             const Batch& batch) {
  for (const auto& [name, rows, cols, scale] : gpt::weights_of(s.training.model))
    proof.weight(name, "??", Slice::nothing_of(rows, cols), scale);  // the replica asks for its rows later
  ZeroReplica replica = make_replica(proof, alone, dp, s, s.training.stage);
  const double loss =
      sum_over(dp, replica.gradients(batch.own)) / static_cast<double>(s.training.model.tokens);
  proof.result("loss", "11", "loss, the mean over all ranks' tokens", Tensor::of(1, 1, {loss}),
               Slice::whole(1, 1));
  for (std::size_t u = 0; u < replica.parameters().size(); ++u) {
    const Tensor row = whole_row(replica.units().units()[u].own_gradients, s.training.stage, dp);
    std::int64_t at = 0;
    for (const Parameter& one : replica.parameters()[u]) {
      const std::int64_t rows = one.slice.whole_rows, cols = one.slice.whole_cols;
      proof.result("d" + one.name, "??", "d" + one.name,
                   row.column_range(at, at + rows * cols).reshape(rows, cols), one.slice,
                   "gradients, each the sum over the ranks");
      at += rows * cols;
    }
  }
  proof.measured_baseline([whole = batch.whole, model = s.training.model](const auto& in) {
    return gpt::reference_step(in, model, whole);
  });
}

/// The elements of each part's row with its padding: the embedding, the blocks, the head.
inline std::vector<std::int64_t> padded_rows(const ModelConfig& m, int ranks) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(m.layers) + 2,
                                 padded(gpt::own_elements(m, 1, false, false, 0, 1), ranks));
  rows.front() = padded(gpt::own_elements(m, 0, true, false, 0, 1), ranks);
  rows.back() = padded(gpt::own_elements(m, 0, false, true, 0, 1), ranks);
  return rows;
}

/// What a rank holds of each kind between two steps, and the whole rows that lie there beside it at most.
inline void expect_memory(Proof& proof, const Config& s) {
  const ZeroConfig& c = s.training;
  const int d = proof.ranks();
  const std::vector<std::int64_t> rows = padded_rows(c.model, d);
  const std::int64_t e = proof.element_bytes(), g = proof.wide_bytes(),
                     state = (c.adamw ? 2 : 1) * g + (g > e ? g : 0);  // and the masters
  std::int64_t all = 0, largest = 0, largest_pair = 0;
  for (std::size_t u = 0; u < rows.size(); ++u) {
    all += rows[u], largest = std::max(largest, rows[u]);
    if (u > 0) largest_pair = std::max(largest_pair, rows[u - 1] + rows[u]);
  }
  const std::string padding = format(", P' = P + {} of padding", all - gpt::elements_of(c.model));
  const auto& memory = Device::current()->memory;
  const auto expect = [&](MemoryKind kind, const std::string& label, std::int64_t each, bool cut,
                          std::int64_t arrived) {
    const std::int64_t kept = (cut ? all / d : all) * each;
    proof.measure_memory(kind, memory.now(kind));
    proof.expect_memory(
        kind, label, all * each, kept,
        format("{} P'{}{}", each, cut ? "/d" : "", kind == MemoryKind::weight ? padding : ""));
    if (arrived == 0 || s.steps == 0) return;
    proof.measure_memory(kind, memory.peak(kind));
    proof.expect_memory(kind, label + " at the peak", all * each, kept + arrived * each,
                        format("{} (P'/d + {})", each,
                               kind == MemoryKind::weight && c.prefetch ? "two parts that follow one another"
                                                                        : "the largest part"));
  };
  expect(MemoryKind::weight, "weights", e, c.stage == 3,
         c.stage < 3  ? 0
         : c.prefetch ? largest_pair
                      : largest);
  expect(MemoryKind::gradient, "gradients", g, c.stage >= 2, c.stage >= 2 ? largest : 0);
  expect(MemoryKind::optimizer, c.adamw ? "AdamW's moments" : "SGD's velocity", state, c.stage >= 1, 0);
}

/// What the ranks send in the steps of the run and in the gradients of the first check.
inline void expect_traffic(Proof& proof, const Config& s) {
  const std::int64_t d = proof.ranks(), n = s.steps + 1, m = s.microbatches;
  std::int64_t all = 0, parts = 0;
  for (const std::int64_t row : padded_rows(s.training.model, proof.ranks())) all += row, ++parts;
  const auto expect = [&](const char* phase, const char* op, const char* label, std::int64_t times,
                          std::int64_t factor, const std::string& count) {
    const std::int64_t e = std::string(label) == "weights" ? proof.element_bytes() : proof.wide_bytes();
    proof.expect_traffic(phase, op, label, times * parts, times * factor * (d - 1) * all * e,
                         format("{} x {}(d-1) {} P'", count, factor == 2 ? "2 " : "", e));
  };
  const std::string steps = format("{} steps", n),
                    microbatches = m == 1 ? steps : format("{} x {}", steps, m);
  const int stage = s.training.stage;
  if (stage == 0) expect("bwd", "all_reduce", "gradients", n, 2, steps);
  if (stage == 1) expect("bwd", "reduce_scatter", "gradients", n, 1, steps);
  if (stage >= 2) expect("bwd", "reduce_scatter", "gradients", n * m, 1, microbatches);
  if ((stage == 1 || stage == 2) && s.steps > 0)
    expect("step", "all_gather", "weights", n - 1, 1, format("{} steps", n - 1));
  if (stage == 3)
    for (const char* phase : {"fwd", "bwd"}) expect(phase, "all_gather", "weights", n * m, 1, microbatches);
  if (s.training.clip > 0 && stage > 0 && s.steps > 0)
    proof.expect_traffic("norm", "all_reduce", "the norm", n - 1, (n - 1) * 2 * (d - 1) * 8, "2 (d-1) 8");
}

/// How often the weights of a part were on their way while the part before it computed, since the journal
/// began; against what the prefetch must reach: all parts of a pass but the first.
inline double overlap_missed(Journal& journal, const Config& s) {
  std::int64_t overlapped = 0;
  for (const Span& span : journal.spans())
    overlapped += span.category == "overlapped" && span.name.starts_with("all_gather");
  const std::int64_t passes = std::int64_t{2} * s.microbatches * (s.steps + 1);
  return std::abs(static_cast<double>(overlapped - passes * (s.training.model.layers + 1)));
}

/// Elements of a's and b's weights that differ, or the largest distance between two of them.
struct Apart {
  double bits = 0, distance = 0;
};
inline Apart apart(const ZeroReplica& a, const ZeroReplica& b, Communicator& dp) {
  Apart found;
  for (std::size_t u = 0; u < a.parameters().size(); ++u) {
    const auto left = whole_row(a.units().units()[u].own_weights, a.units().stage(), dp).values();
    const auto right = whole_row(b.units().units()[u].own_weights, b.units().stage(), dp).values();
    for (std::size_t i = 0; i < left.size(); ++i) {
      found.bits += !(left[i] == right[i]);
      const double off = std::abs(left[i] - right[i]);
      if (!(off <= found.distance)) found.distance = std::isnan(off) ? INFINITY : off;
    }
  }
  return found;
}

/// The run against plain data parallelism, which is stage 0 on the same batches; its memory and its bytes.
inline void check_run(Proof& proof, const TensorParallel& alone, Communicator& dp, const Config& s,
                      const Batch& batch, const ZeroReplica& replica, const std::vector<double>& losses) {
  expect_memory(proof, s);
  expect_traffic(proof, s);
  if (s.training.stage == 3 && s.training.prefetch && dp.size() > 1)
    proof.claim("weights arrive while the part before computes", overlap_missed(dp.journal(), s), 0,
                "an all_gather was waited for at once: was the next part's posted before this one computed?");
  const Journal before = dp.journal();
  {
    const MemoryScope scope(MemoryKind::check);
    ZeroReplica plain = make_replica(proof, alone, dp, s, 0);
    const std::vector<double> plain_losses = train(plain, batch, s, dp);
    const Apart off = apart(replica, plain, dp);
    double loss_off = 0;
    for (std::size_t i = 0; i < losses.size(); ++i)
      if (const double one = std::abs(losses[i] - plain_losses[i]); !(one <= loss_off)) loss_off = one;
    // The sums are taken in the same order, unless a transport, the microbatches or a norm over shards bring
    // another one. AdamW then turns the noise in the gradient of the keys' bias, which is zero, into steps.
    const bool same_order = dp.transport() == "threads" && s.microbatches == 1 && s.training.clip == 0;
    const std::string weights = format("weights after {} steps = plain data parallelism's", s.steps);
    if (same_order)
      proof.claim(weights + ", equal bits", off.bits, 0,
                  "was each shard stepped by its own rank, and gathered in the order of the ranks?");
    else if (proof.dtype() == DType::f64)
      proof.claim(weights, off.distance, s.microbatches == 1 ? 1e-12 : 1e-10,
                  "was a shard summed twice, or clipped by its own norm?");
    proof.claim(format("losses of {} steps = plain data parallelism's", s.steps), loss_off,
                same_order                    ? 0
                : proof.dtype() == DType::f64 ? 1e-12
                : proof.coarse()              ? 1e-2
                                              : 1e-4,
                "");
  }
  dp.journal() = before;  // these calls are in no table
  if (s.steps > 1)
    proof.claim("the loss has fallen", std::max(losses.back() - losses.front(), 0.0), 0, "smaller --lr?");
}

/// The lesson's run with its checks, as main has it. Returns the losses.
inline std::vector<double> prove(Proof& proof, Communicator& dp, const Config& s) {
  const auto group = dp.split(dp.rank(), 0, "tp");
  const TensorParallel alone(*group);
  const Batch batch = make_batch(s, dp, proof.seed());
  check_first_step(proof, alone, dp, s, batch);
  ZeroReplica replica = make_replica(proof, alone, dp, s, s.training.stage);
  const std::vector<double> losses = train(replica, batch, s, dp);
  check_run(proof, alone, dp, s, batch, replica, losses);
  return losses;
}

}  // namespace tessera::zero
