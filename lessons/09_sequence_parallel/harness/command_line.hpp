// From the command line to a Config, or to a message that says what would work.
#pragma once

#include "05_attention_heads/harness/command_line.hpp"
#include "09_sequence_parallel/harness/proof.hpp"

namespace tessera::sequence_parallel {

using attention_heads::Arguments;

inline void set_config(Config& c, Arguments& arguments, const Options& options, int ranks) {
  if (!arguments.trap.empty())
    throw UsageError("--trap is lesson 05's: ./tessera run 05 --trap qkv would work");
  attention_heads::set_sizes(c.sizes, arguments, options, ranks);
  const attention_heads::Sizes& s = c.sizes;
  if (s.shares_keys(ranks))
    throw UsageError(
        format("--kv-heads {} on {} ranks: a number that they divide, like --kv-heads {}, would work; "
               "lesson 05 has multi-query attention",
               s.shape.kv_heads, ranks, s.shape.heads));
  if (s.n() % ranks != 0)
    throw UsageError(
        format("{} ranks do not divide the {} tokens of --batch {} --seq {}: --seq {} would work", ranks,
               s.n(), s.shape.options.batch, s.shape.options.seq, (s.shape.options.seq / ranks + 1) * ranks));
}

}  // namespace tessera::sequence_parallel
