// What a rank of lesson 08 holds of weights, gradients and the optimiser's state, from the sizes alone.
#pragma once

#include "08_three_d/config.hpp"
#include "gpt/sizes.hpp"
#include "tensor/memory.hpp"

namespace tessera::three_d {

/// The elements of a rank's own weights, as the formulas on the screen write them.
inline constexpr const char* own_formula = "own ((12 W W + 7 W)/tp + 6 W a layer, embedding, head)";
inline constexpr const char* all_ranks = "tp pp ranks' own";  // of all groups of dp_cp together

/// The number of ranks with the same weights, as formulas write it; and the name of their group.
inline std::string replicas(const ParallelSizes& s) { return s.cp > 1 ? "dp cp" : "dp"; }
inline std::string replica_group(const ParallelSizes& s) { return s.cp > 1 ? "dp_cp" : "dp"; }

/// How many ranks share a part out. All of dp_cp do, and its row is padded for them; of experts only those
/// ranks do that hold the same ones.
inline int sharers_of(const gpt::Part& part, const ParallelSizes& s) {
  return s.replicas() / (part.experts ? s.ep : 1);
}

/// The most elements that are whole at the same time, beside what a rank owns: of weights under stage 3 of
/// ZeRO, and of gradients under stages 2 and 3. parts[i] and `upper` follow one another in a chunk; embedding
/// and head are parts, too. The weights of both are whole, if the second is prefetched. The gradients of
/// parts[i] are whole while those of `upper` are summed into what the rank owns of them. A tied matrix is
/// whole from the head to the embedding, where both are on this rank.
struct WholeRows {
  std::int64_t weights = 0, gradients = 0;
};
inline WholeRows whole_rows(const TrainingConfig& t, const Place& place) {
  const int stages = place.sizes.pp, d = place.sizes.replicas(), tp = place.sizes.tp, rank = place.tp;
  const std::int64_t w = t.model.width();
  const std::int64_t matrix = padded(attention_heads::own_ids(t.model.vocabulary, rank, tp).size() * w, d),
                     shared = stages == 1 && t.model.tied ? matrix : 0;
  struct Rows {
    std::int64_t whole = 0, own = 0;
  };
  const auto dense = [&](std::int64_t elements) { return Rows{elements, elements / d}; };
  WholeRows most;
  for (int c = 0; c < t.chunks; ++c) {
    const int at = pipeline::virtual_stage(c, place.stage, stages);
    std::vector<Rows> parts;
    if (at == 0) parts.push_back(dense(padded(t.model.wpe_rows() * w, d) + matrix));
    const Range layers = pipeline::layers_of(t.partition(stages), at);
    for (std::int64_t l = layers.begin; l < layers.end; ++l) {
      Rows& block = parts.emplace_back();
      for (const gpt::Part& one : gpt::own_parts(t.model, {l, l + 1}, false, false, rank, tp))
        block.whole += padded(one.elements, d),
            block.own += padded(one.elements, d) / sharers_of(one, place.sizes);
    }
    if (at == stages * t.chunks - 1) parts.push_back(dense(padded(2 * w, d) + matrix));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::int64_t upper = t.prefetch && i + 1 < parts.size() ? parts[i + 1].whole : 0;
      most.weights = std::max(most.weights, parts[i].whole + upper);
    }
    most.gradients =
        std::max(most.gradients, parts.front().whole + parts.front().own);  // the last one to be summed
    if (at == 0) parts.front() = dense(parts.front().whole - shared);
    if (at == stages * t.chunks - 1) parts.back() = dense(parts.back().whole - shared);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Rows upper = i + 1 < parts.size() ? parts[i + 1] : Rows{};
      most.gradients = std::max(most.gradients, shared + parts[i].whole + upper.whole + upper.own);
    }
  }
  return most;
}

/// Expects the weights, gradients and optimiser's state of a rank, as measured now. Under ZeRO each row of
/// weights is padded, so that the replicas share it out equally. `own` names a rank's elements in the formula
/// on the screen. `trained`: the rank has computed gradients, so that its peaks are those of training.
inline void expect_state(auto& proof, const Place& place, const TrainingConfig& t, const std::string& own,
                         bool trained = true) {
  const std::int64_t whole = gpt::elements_of(t.model), e = proof.element_bytes(), g = proof.wide_bytes(),
                     masters = proof.wide() > 1 ? g : 0, state = masters + (t.adamw ? 2 : 1) * g;
  std::int64_t elements = 0, kept = 0, owned = 0;
  for (const gpt::Part& row : own_rows(t, place)) {
    const std::int64_t all = padded(row.elements, t.zero > 0 ? place.sizes.replicas() : 1);
    elements += row.elements, kept += all, owned += all / sharers_of(row, place.sizes);
  }
  const std::string padding = kept == elements ? "" : format(", {} of padding", kept - elements);
  const auto expect = [&](MemoryKind kind, const std::string& label, std::int64_t bytes,
                          const std::string& count, int from, std::int64_t arrived, const char* what) {
    const bool cut = t.zero >= from;
    const std::int64_t mine = (cut ? owned : kept) * bytes;
    proof.expect_memory(kind, label, whole * bytes, mine,
                        format("{} {}x {}{}{}", count, cut ? place.sizes.cp > 1 ? "/(dp cp) " : "/dp " : "",
                               own, padding, cut && place.sizes.ep > 1 ? ", experts x ep" : ""));
    if (!cut || arrived == 0 || !trained) return;
    proof.measure_peak(kind);
    proof.expect_memory(kind, label + " at the peak", whole * bytes, mine + arrived * bytes,
                        format("and {} x {}", count, what));
  };
  const WholeRows rows = whole_rows(t, place);
  expect(MemoryKind::weight, "weights", e, format("{}", e), 3, rows.weights,
         t.prefetch ? "two parts that follow one another" : "the largest part");
  expect(MemoryKind::gradient, "gradients", g, format("{}", g), 2, rows.gradients,
         t.model.tied && place.sizes.pp == 1 ? "two parts, 1/dp of the one that is summed, and wte"
                                             : "two parts, and 1/dp of the one that is summed");
  expect(MemoryKind::optimizer, "optimiser", state,
         masters > 0 ? format("({} + {})", masters, state - masters) : format("{}", state), 1, 0, "");
}

}  // namespace tessera::three_d
