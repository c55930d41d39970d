// What every axis sends, from the sizes alone.
#pragma once

#include "08_three_d/config.hpp"
#include "app/proof.hpp"

namespace tessera::three_d {

/// The sums over tp of `all` microbatches in one pass: `sums` of (n, W). Where activations are cut by tokens,
/// each is a reduce-scatter, with a gather at the other end of its layers; `again` gathers are a second time.
inline void expect_sums(Proof& proof, const Config& s, const std::string& phase, std::int64_t all,
                        const std::string& count, std::int64_t again) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, e = proof.element_bytes(), sums = 2 * m.layers + 1;
  const std::int64_t each = all * (t - 1) * m.rows() * m.width() * e;
  for (const auto& [op, label, calls] : {std::tuple{"all_gather", "before the columns", sums + again},
                                         {"reduce_scatter", "behind the rows", sums}})
    proof.expect_traffic(phase, op, label, all * calls, calls * each,
                         format("{} x (tp-1) {} ({} L + 1) n W", count, e, (calls - 1) / m.layers), "tp");
}

/// The messages of `all` microbatches in one pass.
inline void expect_messages(Proof& proof, const Config& s, const std::string& phase, const std::string& what,
                            std::int64_t all, const std::string& count) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, v = s.training.chunks, e = proof.element_bytes();
  if (p == 1) return;
  proof.expect_traffic(
      phase, "send", what, all * t * (p * v - 1),
      all * t * (p * v - 1) * m.own_rows(s.sizes.tp) * m.width() * e,
      format("{} x {}({}pp-1) {} n W", count, m.sequence_parallel ? "" : "tp ", v > 1 ? "v " : "", e), "pp");
}

/// Of `all` microbatches of n tokens, forward. `count`: how many, in letters.
inline void expect_forward_traffic(Proof& proof, const Config& s, const std::string& phase, std::int64_t all,
                                   const std::string& count) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, e = proof.element_bytes(), n = m.rows(), w = m.width();
  const std::int64_t sums = m.sequence_parallel ? 0 : 2 * m.layers + 1;
  if (m.sequence_parallel) expect_sums(proof, s, phase, all, count, 0);
  proof.expect_traffic(phase, "all_reduce", sums > 0 ? "blocks, embedding, loss" : "loss", all * (sums + 3),
                       all * 2 * (t - 1) * (sums * n * w + 3 * n) * e,
                       format("{} x 2 (tp-1) {} {}", count, e, sums > 0 ? "((2 L + 1) n W + 3 n)" : "3 n"),
                       "tp");
  expect_messages(proof, s, phase, "activations", all, count);
}

/// All sums over tp, pp, ends and dp of `steps` steps. `buckets`: of all groups of dp together.
inline void expect_traffic_by_axis(Proof& proof, const Config& s, std::int64_t steps, std::int64_t buckets) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, d = s.sizes.dp, e = proof.element_bytes();
  const std::int64_t all = steps * s.training.microbatches * d;  // microbatches of all replicas
  const std::int64_t n = m.rows(), w = m.width(), sums = 2 * m.layers + 1;
  const std::string each = format("{} x ", steps), microbatch = format("{} dp m", steps);
  expect_forward_traffic(proof, s, "fwd", all, microbatch);
  if (m.sequence_parallel) {
    expect_sums(proof, s, "bwd", all, microbatch, m.regather ? 2 * m.layers : 0);
    proof.expect_traffic("bwd", "all_reduce", "norms, late biases", steps * p * d,
                         steps * d * 2 * (t - 1) * (6 * m.layers + 2) * w * e,
                         format("{}2 dp (tp-1) {} (6 L + 2) W", each, e), "tp");
  } else {
    proof.expect_traffic("bwd", "all_reduce", "blocks, head", all * sums,
                         all * 2 * (t - 1) * sums * n * w * e,
                         format("{} x 2 (tp-1) {} (2 L + 1) n W", microbatch, e), "tp");
  }
  expect_messages(proof, s, "bwd", "gradients", all, microbatch);
  if (p > 1)
    proof.expect_traffic("bwd", "all_reduce", "tied embedding", steps * t * d,
                         steps * d * 2 * m.vocabulary * w * e, format("{}2 dp {} V W", each, e), "embedding");
  std::int64_t owned = 0;
  for (int rank = 0; rank < t; ++rank)
    owned += gpt::own_elements(m, m.layers, true, true, rank, static_cast<int>(t)) +
             (p > 1 ? attention_heads::own_ids(m.vocabulary, rank, static_cast<int>(t)).size() * w : 0);
  proof.expect_traffic("bwd", "all_reduce", "all gradients", steps * buckets, steps * 2 * (d - 1) * owned * e,
                       format("{}2 (dp-1) {} (tp pp ranks' own)", each, e), "dp");
  if (s.training.clip > 0)
    for (const auto& [group, size, count] : {std::tuple{"tp", t, p * d}, {"pp", p, t * d}})
      proof.expect_traffic("norm", "all_reduce", "the norm", (steps - 1) * count,
                           (steps - 1) * count * 2 * (size - 1) * 8, "2 (n-1) 8", group);
}

/// Of `steps` sampled tokens: the forwards, a pair of numbers from each rank of a last stage's tp, and the id
/// back to the stages before it.
inline void expect_sampling_traffic(Proof& proof, const Config& s) {
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, all = s.sample * s.sizes.dp;
  expect_forward_traffic(proof, s, "sample", all, format("{} dp", s.sample));
  proof.expect_traffic("draw", "all_gather", "who has the largest", all, all * (t - 1) * t * 16,
                       format("{} dp x (tp-1) tp 16", s.sample), "tp");
  proof.expect_traffic("sample", "broadcast", "the id", all * t, all * t * (p - 1) * 4,
                       format("{} dp x tp (pp-1) 4", s.sample), "pp");
}

}  // namespace tessera::three_d
