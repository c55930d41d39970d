// The sizes of lesson 11: from the command line, or a message that says what would work, to what the ranks
// compute and send by its formulas.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "11_context_parallel/ulysses.hpp"
#include "gpt/harness/context.hpp"

namespace tessera::context_parallel {

struct Config {
  attention_heads::Sizes sizes;
  Way way = Way::ring;
  bool zigzag = true;

  attention_heads::AttentionShape& shape() { return sizes.shape; }
  const attention_heads::AttentionShape& shape() const { return sizes.shape; }
  Layout layout(int ranks) const { return {shape().options.batch, shape().options.seq, ranks, zigzag}; }
  std::int64_t kv() const { return 2 * shape().kv_width(); }  // columns of K and V together
  bool fits(std::int64_t kv_heads, int ranks) const {
    return shape().heads % kv_heads == 0 &&
           (way != Way::ulysses || kv_heads % ranks == 0 || ranks % kv_heads == 0);
  }
};
using gpt::way_names;

inline void add_flags(App& app, Config& c) {
  gpt::add_context_flags(app.flags(), c.way, c.zigzag);
  add_shape_flags(app, c.shape());
}

/// Completes the sizes for cp ranks. Throws UsageError where they cannot be cut over these.
inline void check_sizes(Config& c, int ranks) {
  complete(c.sizes);
  const attention_heads::AttentionShape& s = c.shape();
  check_shape(s, s.tokens());
  const int chunks = c.layout(ranks).chunks();
  gpt::refuse_context(s, c.way, c.zigzag, ranks, 1, format("{} ranks", ranks),
                      format("--seq {}", (s.options.seq / chunks + 1) * chunks));
  refuse_if(!c.fits(s.kv_heads, ranks),
            "--kv-heads {} on {} ranks: a number that divides the {} heads{}: --kv-heads {} would work",
            s.kv_heads, ranks, s.heads,
            c.way == Way::ulysses ? ", and that divides the ranks or that they divide" : "",
            fitting(s.heads, [&](std::int64_t n) { return c.fits(n, ranks); }));
}

/// Elements that all ranks send together in the forward and in the backward.
inline std::int64_t sent(const Config& c, Way way, int ranks) {
  std::int64_t all = 0;
  for (const bool forward : {true, false})
    for (const gpt::Exchange& one : gpt::exchanges(c.shape(), way, ranks, forward)) all += one.elements;
  return all;
}

/// Pairs of a query and a key that the mask lets through, over all heads. Each costs 2 d multiply-adds in the
/// forward, and 5 d in the backward.
inline std::int64_t pairs_of(const AttentionOptions& o) {
  std::int64_t keys = o.batch * o.seq * o.seq;  // of all queries
  if (o.mask == Mask::causal) keys = o.batch * o.seq * (o.seq + 1) / 2;
  if (o.mask == Mask::padding) {
    keys = 0;
    for (const double length : o.lengths.values()) keys += o.seq * length;
  }
  return o.heads * keys;
}

/// The pairs of a query and a key of all heads that a rank computes.
inline std::int64_t pairs(const Config& c, int rank, int ranks) {
  const AttentionOptions& o = c.shape().options;
  AttentionOptions all = o;
  all.heads = c.shape().heads;
  const Layout layout = c.layout(ranks);
  if (o.mask != Mask::causal || c.way == Way::ulysses) return pairs_of(all) / ranks;
  std::int64_t keys = 0;  // of the queries of a sequence: chunk i has i chunks before it, and a triangle
  for (int k = 0; k < layout.own_chunks(); ++k)
    keys += layout.length() *
            (std::int64_t{2} * layout.chunk(rank, k) * layout.length() + layout.length() + 1) / 2;
  return all.heads * o.batch * keys;
}

}  // namespace tessera::context_parallel
