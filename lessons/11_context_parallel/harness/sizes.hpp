// The sizes of lesson 11: from the command line, or a message that says what would work, to what the ranks
// compute and send by its formulas.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "11_context_parallel/ulysses.hpp"

namespace tessera::context_parallel {

struct Config {
  attention_heads::Sizes sizes;
  Way way = Way::ring;
  bool zigzag = true;

  attention_heads::AttentionShape& shape() { return sizes.shape; }
  const attention_heads::AttentionShape& shape() const { return sizes.shape; }
  Layout layout(int ranks) const { return {shape().options.batch, shape().options.seq, ranks, zigzag}; }
  /// Columns of K and V together; Ulysses sends a kv head to every rank that uses it.
  std::int64_t kv() const { return 2 * shape().kv_width(); }
  std::int64_t copied_kv(int ranks) const {
    return 2 * std::max<std::int64_t>(shape().kv_heads, ranks) * shape().head_width();
  }
  bool fits(std::int64_t kv_heads, int ranks) const {
    return shape().heads % kv_heads == 0 &&
           (way != Way::ulysses || kv_heads % ranks == 0 || ranks % kv_heads == 0);
  }
};
inline const std::vector<std::pair<Way, std::string>> way_names = {
    {Way::ring, "ring"}, {Way::gather, "gather"}, {Way::ulysses, "ulysses"}};

inline void add_flags(App& app, Config& c) {
  AttentionOptions& o = c.shape().options;
  app.flags().choice("--way", c.way, way_names, "who brings K and V; ulysses exchanges tokens for heads");
  app.flags().choice("--placement", c.zigzag, {{true, "zigzag"}, {false, "contiguous"}},
                     "zigzag: of 2c chunks of a sequence rank r has number r and number 2c-1-r");
  app.size("--batch", o.batch, "sequences");
  app.size("--seq", o.seq, "tokens of a sequence; N = batch seq");
  app.size("--width", c.shape().width, "W, columns of X");
  app.size("--heads", c.shape().heads, "heads, of W / heads columns each");
  app.flags().number("--kv-heads", c.shape().kv_heads, 0, 1 << 20, "heads of K and V; 0: as many as heads");
  app.flags().choice("--mask", o.mask, attention_heads::mask_names,
                     "padding: sequence b ends after seq - b seq/(2 batch) tokens");
}

/// Completes the sizes for c ranks. Throws UsageError where they cannot be cut over these.
inline void check_sizes(Config& c, int ranks) {
  complete(c.sizes);
  const attention_heads::AttentionShape& s = c.shape();
  check_shape(s, s.tokens());
  if (const int n = c.layout(ranks).chunks(); s.options.seq % n != 0)
    throw UsageError(
        format("--seq {} on {} ranks cannot be cut into the {} equal chunks of --placement {}: "
               "--seq {} would work",
               s.options.seq, ranks, n, c.zigzag ? "zigzag" : "contiguous", (s.options.seq / n + 1) * n));
  if (c.way == Way::ulysses && s.heads % ranks != 0)
    throw UsageError(
        format("--heads {} cannot be shared out over {} ranks, as --way ulysses does: --way ring "
               "would work",
               s.heads, ranks));
  if (!c.fits(s.kv_heads, ranks))
    throw UsageError(
        format("--kv-heads {} on {} ranks: a number that divides the {} heads{}: --kv-heads {} would work",
               s.kv_heads, ranks, s.heads,
               c.way == Way::ulysses ? ", and that divides the ranks or that they divide" : "",
               fitting(s.heads, [&](std::int64_t n) { return c.fits(n, ranks); })));
}

/// Elements that all ranks send together in the forward, and in the backward.
inline std::pair<std::int64_t, std::int64_t> sent(const Config& c, Way way, int ranks) {
  const std::int64_t n = c.sizes.n(), more = ranks - 1, keys = more * n * c.kv();
  if (way == Way::ring) return {keys, more == 0 ? 0 : keys + ranks * n * c.kv()};
  if (way == Way::gather) return {keys, 2 * keys};
  const std::int64_t all = more * n / ranks * (2 * c.sizes.w() + c.copied_kv(ranks));
  return {all, all};
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
