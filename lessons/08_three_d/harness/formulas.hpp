// What the ranks of lesson 08 send, from the sizes alone.
#pragma once

#include "08_three_d/harness/memory.hpp"
#include "gpt/harness/context.hpp"

namespace tessera::three_d {

/// Expects `times` calls of `op` for each of `parts`, among the ranks that share it out: those of dp_cp, or
/// for experts those of expert_dp. `count` and `of` are how the formula on the screen begins and ends.
inline void expect_shared_out(auto& proof, const Config& s, const std::string& phase, const std::string& op,
                              const std::string& what, const std::vector<gpt::Part>& parts,
                              std::int64_t times, std::int64_t bytes, const std::string& count,
                              const std::string& of) {
  std::int64_t calls[2] = {}, elements[2] = {};  // [1]: of experts, where their group is another one
  for (const gpt::Part& part : parts) {
    const std::int64_t groups = part.experts ? s.sizes.ep : 1;
    const bool other = groups > 1;
    calls[other] += groups;
    elements[other] += groups * (sharers_of(part, s.sizes) - 1) * padded(part.elements, s.sizes.replicas());
  }
  proof.expect_traffic(phase, op, what, times * calls[0], times * elements[0] * bytes,
                       format("{}({}-1) {} ({})", count, replicas(s.sizes), bytes, of),
                       replica_group(s.sizes));
  if (calls[1] > 0)
    proof.expect_traffic(phase, op, what + " of experts", times * calls[1], times * elements[1] * bytes,
                         format("{}({}/ep-1) {} (experts, padded)", count, replicas(s.sizes), bytes),
                         "expert_dp");
}

/// Expects the gathers of stage 3 of ZeRO in one direction of `microbatches` microbatches of each replica.
inline void expect_gathers(auto& proof, const Config& s, const std::string& phase, std::int64_t microbatches,
                           bool forward, const std::string& all = all_ranks) {
  const ModelConfig& m = s.training.model;
  std::vector<gpt::Part> parts;
  for (int rank = 0; rank < s.sizes.tp; ++rank) {
    auto own = gpt::own_parts(m, {0, m.layers}, forward, true, rank, s.sizes.tp);  // the embedding has no dX
    if (forward && m.tied) own.push_back(own.front());                             // both ends gather it
    parts.insert(parts.end(), own.begin(), own.end());
  }
  expect_shared_out(proof, s, phase, "all_gather", "weights", parts, microbatches, proof.element_bytes(),
                    format("{} x ", microbatches),
                    format("{}, padded{}", all, forward ? "" : ", no embedding"));
}

/// Expects what the ranks send in one direction of `all` microbatches of n tokens. Each rank of cp has such a
/// microbatch of its own. `count` writes `all` in the formula on the screen. For the loss the forward has
/// three more all-reduces of a number for each token, together as wide as `losses` elements.
inline void expect_pass(auto& proof, const Config& s, const std::string& phase, std::int64_t all,
                        const std::string& count, bool forward = true) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, v = s.training.chunks, e = proof.element_bytes(), n = m.rows(),
                     nw = n * m.width(), sums = 2 * m.layers + 1, calls = forward ? 3 : 0,
                     losses = calls * proof.wide(), sends = all * t * (s.sizes.pp * v - 1),
                     rows = m.own_rows(s.sizes.tp);
  if (s.sizes.pp > 1)
    proof.expect_traffic(
        phase, "send", forward ? "activations" : "gradients", sends, sends * rows * m.width() * e,
        format("{} x {}({}pp-1) {} n W", count, m.sequence_parallel ? "" : "tp ", v > 1 ? "v " : "", e),
        "pp");
  if (s.training.zero == 3) expect_gathers(proof, s, phase, all / s.sizes.replicas(), forward);
  if (m.cp > 1)
    for (const gpt::Exchange& one : gpt::exchanges(m.attention, m.way, m.cp, forward, t)) {
      const std::int64_t times = all / m.cp * m.layers;  // the ranks of cp take part in each together
      proof.expect_traffic(phase, one.op, one.what, times * one.calls, times * one.elements * e,
                           format("{} L x {} {} n {}", count, one.formula, e,
                                  m.way == gpt::Way::ulysses ? "(2 W + 2 KV)" : "2 KV"),
                           "cp");
    }
  // One more sum in each layer of experts: of two rows of E numbers, for the auxiliary loss.
  const std::int64_t balances = forward && m.aux > 0 ? m.expert_layers() : 0,
                     pair = 2 * m.experts * proof.wide_bytes();
  if (m.sequence_parallel) {  // each sum is a reduce-scatter, and a gather at the other end of its layers
    const std::int64_t cut = sums - m.expert_layers(), again = m.regather && !forward ? cut - 1 : 0;
    for (const auto& [op, label, times] : {std::tuple{"all_gather", "in front of columns", cut + again},
                                           {"reduce_scatter", "behind rows", cut}})
      proof.expect_traffic(phase, op, label, all * times, all * times * (t - 1) * nw * e,
                           m.experts > 0
                               ? format("{} x (tp-1) {} {} n W", count, e, times)
                               : format("{} x (tp-1) {} ({} L + 1) n W", count, e, (times - 1) / m.layers),
                           "tp");
    if (forward)
      proof.expect_traffic(
          phase, "all_reduce", balances > 0 ? "loss, shares, means of experts" : "loss",
          all * (calls + balances), all * 2 * (t - 1) * (losses * n * e + balances * pair),
          format("{} x 2 (tp-1) {} {} n", count, e, losses) + (balances > 0 ? " + L/2 2 E" : ""), "tp");
    if (const std::int64_t d = s.sizes.replicas(); balances > 0)
      proof.expect_traffic(
          phase, "all_reduce", "shares, means of experts", all / d * t * balances,
          all / d * t * balances * 2 * (d - 1) * pair,
          format("{} tp L/2 x 2 (1 - 1/({})) {} 2 E", count, replicas(s.sizes), proof.wide_bytes()),
          replica_group(s.sizes));
    return;
  }
  proof.expect_traffic(phase, "all_reduce", forward ? "blocks, embedding, loss" : "blocks, head",
                       all * (sums + calls), all * 2 * (t - 1) * (sums * nw + losses * n) * e,
                       format("{} x 2 (tp-1) {} {}", count, e,
                              forward ? format("((2 L + 1) n W + {} n)", losses) : "(2 L + 1) n W"),
                       "tp");
}

/// How many rows leave a rank for the experts of others, and how many come to its own experts, in each
/// forward of a layer with experts. `routed` reads them from the journal's spans of a phase.
struct Routed {
  std::vector<std::int64_t> leave, come;
};
inline Routed routed(Journal& journal, const std::string& phase) {
  Routed found;
  for (const Span& span : journal.spans()) {
    long leave = 0, come = 0;
    if (span.category != "routing" || !span.name.starts_with(phase + ": ")) continue;
    std::sscanf(span.name.c_str() + phase.size(), ": %ld rows leave, %ld come", &leave, &come);
    found.leave.push_back(leave), found.come.push_back(come);
  }
  return found;
}

/// Expects what goes to experts and back in one direction of `all` microbatches; `moved` rows leave their
/// rank.
inline void expect_experts(auto& proof, const Config& s, const std::string& phase, std::int64_t all,
                           std::int64_t moved, bool forward) {
  const ModelConfig& m = s.training.model;
  const std::int64_t e = proof.element_bytes(), groups = all / m.ep * s.sizes.tp * m.expert_layers(),
                     counts = forward ? groups * (m.ep - 1) * m.experts * 4 : 0;
  const std::string rows = format("2 x {} rows x {} W", moved, e);
  proof.expect_traffic(phase, "all_to_all", forward ? "counts, X, Y of experts" : "dY, dX of experts",
                       groups * (forward ? 3 : 2), counts + 2 * moved * m.width() * e,
                       forward ? format("{} + {}", counts, rows) : rows, "ep");
}

/// Expects the sums of all gradients of `steps` steps, and under stages 1 and 2 of ZeRO the gathers of the
/// new weights. A step has `buckets` all-reduces in all groups of dp_cp together, and `of_experts` in those
/// of expert_dp.
inline void expect_sums_over_dp(auto& proof, const Config& s, std::int64_t steps, std::int64_t buckets,
                                const std::string& all = all_ranks, std::int64_t of_experts = 0) {
  const ModelConfig& m = s.training.model;
  const std::int64_t d = s.sizes.replicas(), g = proof.wide_bytes(), e = proof.element_bytes();
  std::int64_t owned = 0;
  std::vector<gpt::Part> parts;
  for (int rank = 0; rank < s.sizes.tp; ++rank) {
    auto own = gpt::own_parts(m, {0, m.layers}, true, true, rank, s.sizes.tp);
    if (s.sizes.pp > 1 && m.tied)
      own.push_back({attention_heads::own_ids(m.vocabulary, rank, s.sizes.tp).size() * m.width()});
    parts.insert(parts.end(), own.begin(), own.end());
    for (const gpt::Part& part : own) owned += part.elements;
  }
  if (s.training.zero == 0) {  // an expert's gradients are summed over the ranks that hold it
    const bool apart = m.ep > 1;
    const std::int64_t experts = s.sizes.tp * m.expert_layers() * gpt::own_experts(m),
                       sums_of_experts = steps * 2 * (d - m.ep) * experts * g;
    proof.expect_traffic(
        "bwd", "all_reduce", apart ? "gradients but experts'" : "all gradients",
        steps * (buckets + (apart ? 0 : of_experts)),
        steps * 2 * (d - 1) * (owned - experts) * g + (apart ? 0 : sums_of_experts),
        format("{} x 2 ({}-1) {} ({}){}", steps, replicas(s.sizes), g, all, apart ? " but experts" : ""),
        replica_group(s.sizes));
    if (apart)
      proof.expect_traffic("bwd", "all_reduce", "experts' gradients", steps * of_experts, sums_of_experts,
                           format("{} x 2 ({}/ep-1) {} (tp L/2 E experts)", steps, replicas(s.sizes), g),
                           "expert_dp");
    return;
  }
  const std::int64_t times = s.training.zero > 1 ? steps * s.training.microbatches : steps;
  expect_shared_out(proof, s, "bwd", "reduce_scatter", "all gradients", parts, times, g,
                    format("{} x {}", steps, s.training.zero > 1 ? "m " : ""), all + ", padded");
  if (s.training.zero < 3 && steps > 1)
    expect_shared_out(proof, s, "step", "all_gather", "all weights", parts, steps - 1, e,
                      format("{} x ", steps - 1), all + ", padded");
}

/// Expects all that the ranks send in `steps` steps, the first of which has no step of the optimiser.
/// `buckets` and `of_experts` are those of expect_sums_over_dp.
inline void expect_traffic_by_axis(auto& proof, const Config& s, std::int64_t steps, std::int64_t buckets,
                                   std::int64_t of_experts) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, d = s.sizes.replicas(), w = m.width(),
                     g = proof.wide_bytes(),
                     all = steps * s.training.microbatches * d,  // microbatches of all replicas
      copies = s.training.zero > 0 ? 1 : d;  // how often a sum over tp or the embedding group is made
  const std::string each = format("{} x ", steps), of = replicas(s.sizes),
                    microbatches = format("{} {} m", steps, of);
  expect_pass(proof, s, "fwd", all, microbatches);
  expect_pass(proof, s, "bwd", all, microbatches, false);
  const std::int64_t late = (6 * m.layers + 2) * w + m.expert_layers() * (w * m.experts - w),  // with routers
      experts = m.expert_layers() * gpt::own_experts(m) * (copies == d ? d : m.ep);
  if (m.sequence_parallel)
    proof.expect_traffic("bwd", "all_reduce", "norms, late biases", steps * p * d,
                         steps * 2 * (t - 1) * (copies * late + experts) * g,
                         format("{}2 {}(tp-1) {} ((6 L + 2) W{})", each, copies == d ? of + " " : "", g,
                                experts > 0 ? " + experts" : ""),
                         "tp");
  if (p > 1 && m.tied)
    proof.expect_traffic("bwd", "all_reduce", "tied embedding", steps * t * d,
                         steps * copies * 2 * m.vocabulary * w * g,
                         format("{}2 {}{} vocab W", each, copies == d ? of + " " : "", g), "embedding");
  expect_sums_over_dp(proof, s, steps, buckets, all_ranks, of_experts);
  std::vector<std::tuple<std::string, std::int64_t, std::int64_t>> axes = {{"tp", t, p * d},
                                                                           {"pp", p, t * d}};
  if (s.training.zero > 0)
    axes.emplace_back(replica_group(s.sizes), d, t * p);
  else if (m.ep > 1)
    axes.emplace_back("ep", m.ep, t * p * d / m.ep);
  if (s.training.clip > 0 && steps > 1)
    for (const auto& [group, size, count] : axes)
      proof.expect_traffic("norm", "all_reduce", "the norm", (steps - 1) * count,
                           (steps - 1) * count * 2 * (size - 1) * 8, "2 (n-1) 8", group);
}

/// Expects what sampling sends: the forwards, a pair of numbers from each rank of a last stage's tp, and the
/// id back to the stages before it and to the other ranks of cp.
inline void expect_sampling_traffic(auto& proof, const Config& s) {
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, all = s.sample * s.sizes.replicas();
  expect_pass(proof, s, "sample", all, format("{} {}", s.sample, replicas(s.sizes)));
  const std::int64_t texts = s.sample * s.sizes.dp, c = s.sizes.cp;
  proof.expect_traffic("draw", "all_gather", "who has the largest", texts, texts * (t - 1) * t * 16,
                       format("{} dp x (tp-1) tp 16", s.sample), "tp");
  proof.expect_traffic("sample", "broadcast", "the id", all * t, all * t * (p - 1) * 4,
                       format("{} {} x tp (pp-1) 4", s.sample, replicas(s.sizes)), "pp");
  if (c > 1)
    proof.expect_traffic("sample", "broadcast", "the id", texts * t * p, texts * t * p * (c - 1) * 4,
                         format("{} dp x tp pp (cp-1) 4", s.sample), "cp");
}

}  // namespace tessera::three_d
