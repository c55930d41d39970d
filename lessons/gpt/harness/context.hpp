// What lessons 08 and 11 share of context parallelism: its flags, what cannot be cut, and what attention
// sends.
#pragma once

#include "app/app.hpp"
#include "gpt/model.hpp"

namespace tessera::gpt {

inline const std::vector<std::pair<Way, std::string>> way_names = {
    {Way::ring, "ring"}, {Way::gather, "gather"}, {Way::ulysses, "ulysses"}};

inline void add_context_flags(Flags& flags, Way& way, bool& zigzag) {
  flags.choice("--way", way, way_names, "who brings K and V; ulysses exchanges tokens for heads");
  flags.choice("--placement", zigzag, {{true, "zigzag"}, {false, "contiguous"}},
               "zigzag: of 2 cp chunks of a sequence rank r has number r and number 2 cp - 1 - r");
}

/// Throws UsageError where the tokens of a sequence, or for Ulysses the heads of each of t ranks, cannot be
/// cut over c ranks, which `cut` names: "4 ranks" or "--cp 4". `advice` says what would work for the tokens.
inline void refuse_context(const attention_heads::AttentionShape& s, Way way, bool zigzag, int c, int t,
                           const std::string& cut, const std::string& advice) {
  const int chunks = zigzag ? 2 * c : c;
  refuse_if(s.options.seq % chunks != 0,
            "--seq {} on {} cannot be cut into the {} equal chunks of --placement {}: {} would work",
            s.options.seq, cut, chunks, zigzag ? "zigzag" : "contiguous", advice);
  refuse_if(way == Way::ulysses && s.heads / t % c != 0,
            "--heads {} cannot be shared out over {}, as --way ulysses does: --way ring would work", s.heads,
            t > 1 ? format("--tp {} {}", t, cut) : cut);
}

/// A call of attention over cp ranks: how often all of them together make it, and the elements that they
/// send.
struct Exchange {
  std::string op, what;
  std::int64_t calls, elements;
  std::string formula;  // how often K and V of all tokens are sent: "(cp-1)"
};

/// All calls of one direction, of attention that is also cut by heads over t ranks. Each rank's send is a
/// call, and K and V are N 2 KV elements, or for Ulysses N (2 W + 2 KV).
inline std::vector<Exchange> exchanges(const attention_heads::AttentionShape& s, Way way, std::int64_t c,
                                       bool forward, std::int64_t t = 1) {
  const std::int64_t more = c - 1, keys = more * s.tokens() * 2 * s.kv_width(),
                     all = more * s.tokens() * (2 * s.width + copied_kv(s, c * t)) / c;
  if (way == Way::ulysses) return {{"all_to_all", forward ? "QKV, O" : "dO, dQKV", 2 * t, all, "(cp-1)/cp"}};
  if (way == Way::gather && forward) return {{"all_gather", "K V", t, keys, "(cp-1)"}};
  if (way == Way::gather)
    return {{"all_gather", "K V again", t, keys, "(cp-1)"}, {"reduce_scatter", "[dK dV]", t, keys, "(cp-1)"}};
  if (more == 0) return {};  // a ring of one rank has no hops
  if (forward) return {{"send", "K V", c * more * t, keys, "(cp-1)"}};
  return {{"send", "K V, [dK dV]", c * (more + c) * t, keys + keys / more * c, "(cp-1 + cp)"}};
}

}  // namespace tessera::gpt
