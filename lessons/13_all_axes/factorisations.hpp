// How n ranks can stand in the box of lesson 08's mesh.hpp: every way to write n as tp x cp x dp x pp, and
// for a model with experts every ep that divides cp x dp. Which of them a model allows follows from what each
// axis cuts; nothing else is forbidden, so that any two axes can be combined.
#pragma once

#include <algorithm>
#include <map>
#include <tuple>

#include "08_three_d/config.hpp"

namespace tessera::all_axes {

using gpt::ModelConfig;
using three_d::Config;
using three_d::ParallelSizes;

// begin allows
/// Whether the model and its batch can be cut so.
inline bool allows(const Config& s, const ParallelSizes& z) {
  const ModelConfig& m = s.training.model;
  const std::int64_t chunks = z.cp == 1 ? 1 : m.zigzag ? 2 * z.cp : z.cp;  // of each sequence
  return m.attention.heads % z.tp == 0 && m.vocabulary >= z.tp &&  // tp: heads, and an id for each rank
         s.seq() % (chunks * (m.experts > 0 ? z.tp : 1)) == 0 &&   // cp, and tp in front of experts: tokens
         m.layers >= z.pp && s.batch % z.dp == 0 &&                // pp: layers, dp: sequences
         z.replicas() % z.ep == 0 && std::max<std::int64_t>(m.experts, 1) % z.ep == 0;  // ep: experts
}
// end allows

inline constexpr int code_line = __LINE__ + 5;
// begin factorisations
// task 13.factorisations (function, 3 points, 30 min): every factorisation of n ranks that the model allows,
// each once, in ascending order of tp, then of cp, dp and ep. Hint: tp, cp and dp are divisors of what is
// left of n, pp is the rest. ep adds no ranks: of which number is it a divisor?
inline std::vector<ParallelSizes> factorisations(int n, const Config& s) {
  std::vector<ParallelSizes> all;
  const auto each = [](int whole, const auto& visit) {  // every divisor
    for (int part = 1; part <= whole; ++part)
      if (whole % part == 0) visit(part);
  };
  each(n, [&](int tp) {
    each(n / tp, [&](int cp) {
      each(n / tp / cp, [&](int dp) {
        each(cp * dp, [&](int ep) {
          const ParallelSizes sizes{tp, n / tp / cp / dp, dp, cp, ep};
          if (allows(s, sizes)) all.push_back(sizes);
        });
      });
    });
  });
  return all;
}
// end task
// end factorisations

/// The factorisation that cuts most axes; of these the one whose largest factor is smallest, then whose tp,
/// cp and pp are largest. All ranks are dp where the model allows none.
inline ParallelSizes widest(int n, const Config& s) {
  const auto key = [](const ParallelSizes& z) {
    int cut = 0, largest = 1;
    for (const int size : {z.tp, z.cp, z.pp, z.dp, z.ep}) cut += size > 1, largest = std::max(largest, size);
    return std::tuple(cut, -largest, z.tp, z.cp, z.pp);
  };
  const auto all = factorisations(n, s);
  return all.empty() ? ParallelSizes{1, 1, n} : *std::ranges::max_element(all, {}, key);
}

// begin groups
/// The ranks of each group of an axis, as Megatron-Core's default order numbers them: the rank at place
/// (t, c, d, p) is number t + tp (c + cp (d + dp p)). A group has all ranks whose place differs on its own
/// axis alone; each is in ascending order, and so are the groups.
// task 13.groups (function, 3 points, 30 min): that list for "tp", "cp", "dp", "pp", "dp_cp", "ep" and
// "expert_dp". Hint: write down for a rank what all members of its group have in common; a map from this to
// the ranks is nearly the answer. An ep group is ep neighbours of c + cp d, and expert_dp is what lies
// between.
inline std::vector<std::vector<std::int64_t>> groups(const std::string& axis, const ParallelSizes& z) {
  std::map<std::vector<int>, std::vector<std::int64_t>> members;
  for (int rank = 0; rank < z.ranks(); ++rank) {
    const int t = rank % z.tp, r = rank / z.tp % z.replicas(), p = rank / (z.tp * z.replicas());
    const int c = r % z.cp, d = r / z.cp;
    const std::map<std::string, std::vector<int>> common = {{"tp", {r, p}},
                                                            {"cp", {t, d, p}},
                                                            {"dp", {t, c, p}},
                                                            {"pp", {t, r}},
                                                            {"dp_cp", {t, p}},
                                                            {"ep", {t, r / z.ep, p}},
                                                            {"expert_dp", {t, r % z.ep, p}}};
    members[common.at(axis)].push_back(rank);
  }
  std::vector<std::vector<std::int64_t>> all;
  for (const auto& [same, ranks] : members) all.push_back(ranks);
  std::ranges::sort(all);
  return all;
}
// end task
// end groups

}  // namespace tessera::all_axes
