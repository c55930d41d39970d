// What the ranks send under a cut, by the formulas that lesson 08 proves with its counters, and how long it
// takes on the links of a machine.
#pragma once

#include <map>

#include "08_three_d/harness/formulas.hpp"
#include "14_plan/cut.hpp"

namespace tessera::plan {

/// Takes what lesson 08's formulas expect, in the place of a Proof that compares it with counters.
class Ledger {
 public:
  explicit Ledger(const Question& asked) : weight_(asked.weight_bytes), wide_(asked.wide_bytes) {}
  std::int64_t element_bytes() const { return weight_; }
  std::int64_t wide_bytes() const { return wide_; }
  std::int64_t wide() const { return wide_ / weight_; }
  void measure_peak(MemoryKind) {}
  void expect_memory(MemoryKind kind, const std::string&, std::int64_t /*whole*/, std::int64_t rank,
                     const std::string&) {
    double& most = memory[kind];
    most = std::max(most, static_cast<double>(rank));
  }
  /// Calls of all groups and bytes of all ranks.
  void expect_traffic(const std::string& phase, const std::string&, const std::string&, std::int64_t calls,
                      std::int64_t bytes, const std::string&, const std::string& group) {
    auto& [all_calls, all_bytes] = traffic[{group, phase}];
    all_calls += static_cast<double>(calls), all_bytes += static_cast<double>(bytes);
  }
  std::map<MemoryKind, double> memory;
  std::map<std::pair<std::string, std::string>, std::pair<double, double>> traffic;

 private:
  std::int64_t weight_, wide_;
};

/// What one rank sends in a step over one axis, in one direction.
struct AxisTraffic {
  std::string axis, phase;
  double calls = 0, bytes = 0;
  bool crosses = false;  // the group lies on several machines
  double seconds = 0;
};

/// The link between the ranks of a group of this axis. In the order of ranks tp is fastest, then cp, dp and
/// pp.
inline Link link_of(const std::string& axis, const ParallelSizes& s) {
  if (axis == "tp") return {s.tp, 1};
  if (axis == "cp") return {s.cp, s.tp};
  if (axis == "ep") return {s.ep, s.tp};
  if (axis == "expert_dp") return {s.replicas() / s.ep, s.tp * s.ep};
  if (axis == "pp") return {s.pp, s.tp * s.replicas()};
  if (axis == "embedding") return {2, s.tp * s.replicas() * std::max(1, s.pp - 1)};
  return {s.replicas(), s.tp};
}

/// What a rank sends in a step: what the formulas say of two steps less what they say of one, since their
/// first step has no step of the optimiser.
inline std::vector<AxisTraffic> traffic_of(const Question& asked, const Cut& cut,
                                           const three_d::Config& run) {
  const ParallelSizes& s = cut.sizes;
  Ledger one(asked), two(asked);
  const std::int64_t cuts = std::int64_t{s.tp} * s.pp,
                     own = gpt::elements_of(asked.model) / cuts * asked.wide_bytes,
                     buckets = cuts * (1 + own / run.training.bucket);
  for (const auto& [ledger, steps] : {std::pair{&one, std::int64_t{1}}, {&two, std::int64_t{2}}}) {
    three_d::expect_traffic_by_axis(*ledger, run, steps, buckets, asked.model.experts > 0 ? buckets : 0);
    // An even router sends a rank as many rows as another.
    const std::int64_t all = steps * run.training.microbatches * s.replicas(),
                       moved = all * run.training.model.rows() * asked.model.top_k *
                               asked.model.expert_layers() * (s.ep - 1) / s.ep;
    for (const bool forward : {true, false})
      if (asked.model.experts > 0)
        three_d::expect_experts(*ledger, run, forward ? "fwd" : "bwd", all, moved, forward);
  }
  std::vector<AxisTraffic> all;
  for (const auto& [where, both] : two.traffic) {
    const auto& [axis, phase] = where;
    const auto first = one.traffic[where];
    const Link link = link_of(axis, s);
    AxisTraffic t{axis, phase, both.first - first.first, both.second - first.second,
                  link.crosses(asked.machine)};
    t.calls /= static_cast<double>(s.ranks()) / link.ranks, t.bytes /= s.ranks();
    if (axis == "pp" && phase != "norm") {  // each stage but one sends
      const double share = cut.scatter_gather && !cut.sequence_parallel ? 1.0 / s.tp : 1.0;
      t.calls /= link.ranks, t.bytes *= share;
      t.seconds =
          t.calls * link.message_seconds(asked.machine, asked.reached, t.bytes / std::max(t.calls, 1.0));
    } else {
      if (axis == "embedding") t.calls *= 0.5 * s.pp, t.bytes *= 0.5 * s.pp;  // of a stage at an end
      t.seconds = link.seconds(asked.machine, asked.reached, t.calls, t.bytes);
    }
    if (t.calls > 0) all.push_back(t);
  }
  return all;
}

}  // namespace tessera::plan
