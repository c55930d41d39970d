// What every axis sends, from the sizes alone.
#pragma once

#include "08_three_d/config.hpp"
#include "app/proof.hpp"

namespace tessera::three_d {

/// Of `all` microbatches of n tokens, forward. `count`: how many, in letters.
inline void expect_forward_traffic(Proof& proof, const Config& s, const std::string& phase, std::int64_t all,
                                   const std::string& count) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, v = s.training.chunks, e = proof.element_bytes();
  const std::int64_t n = m.rows(), w = m.width(), sums = 2 * m.layers + 1;
  const std::int64_t loss = 3 * proof.wide();  // elements for each token
  proof.expect_traffic(phase, "all_reduce", "blocks, embedding, loss", all * (sums + 3),
                       all * 2 * (t - 1) * (sums * n * w + loss * n) * e,
                       format("{} x 2 (tp-1) {} ((2 L + 1) n W + {} n)", count, e, loss), "tp");
  if (p > 1)
    proof.expect_traffic(phase, "send", "activations", all * t * (p * v - 1),
                         all * t * (p * v - 1) * n * w * e,
                         format("{} x tp ({}pp-1) {} n W", count, v > 1 ? "v " : "", e), "pp");
}

/// All sums over tp, pp, ends and dp of `steps` steps. `buckets`: of all groups of dp together.
inline void expect_traffic_by_axis(Proof& proof, const Config& s, std::int64_t steps, std::int64_t buckets) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, d = s.sizes.dp, v = s.training.chunks,
                     e = proof.element_bytes(), g = proof.wide_bytes();
  const std::int64_t all = steps * s.training.microbatches * d;  // microbatches of all replicas
  const std::int64_t n = m.rows(), w = m.width();
  const std::int64_t sums = 2 * m.layers + 1;
  const std::string each = format("{} x ", steps), microbatch = format("{} dp m", steps);
  expect_forward_traffic(proof, s, "fwd", all, microbatch);
  proof.expect_traffic("bwd", "all_reduce", "blocks, head", all * sums, all * 2 * (t - 1) * sums * n * w * e,
                       format("{} x 2 (tp-1) {} (2 L + 1) n W", microbatch, e), "tp");
  if (p > 1)
    proof.expect_traffic("bwd", "send", "gradients", all * t * (p * v - 1), all * t * (p * v - 1) * n * w * e,
                         format("{} x tp ({}pp-1) {} n W", microbatch, v > 1 ? "v " : "", e), "pp");
  if (p > 1)
    proof.expect_traffic("bwd", "all_reduce", "tied embedding", steps * t * d,
                         steps * d * 2 * m.vocabulary * w * g, format("{}2 dp {} V W", each, g), "embedding");
  std::int64_t owned = 0;
  for (int rank = 0; rank < t; ++rank)
    owned += gpt::own_elements(m, m.layers, true, true, rank, static_cast<int>(t)) +
             (p > 1 ? attention_heads::own_ids(m.vocabulary, rank, static_cast<int>(t)).size() * w : 0);
  proof.expect_traffic("bwd", "all_reduce", "all gradients", steps * buckets, steps * 2 * (d - 1) * owned * g,
                       format("{}2 (dp-1) {} (tp pp ranks' own)", each, g), "dp");
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
  proof.expect_traffic("sample", "all_gather", "who has the largest", all, all * (t - 1) * t * 16,
                       format("{} dp x (tp-1) tp 16", s.sample), "tp");
  proof.expect_traffic("sample", "broadcast", "the id", all * t, all * t * (p - 1) * 4,
                       format("{} dp x tp (pp-1) 4", s.sample), "pp");
}

}  // namespace tessera::three_d
