// The flags of the lessons that cut a GPT, and what can be wrong with its sizes.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "app/app.hpp"
#include "gpt/model.hpp"

namespace tessera::gpt {

/// Why these lessons have no exact tier.
inline std::string inexact() { return "a transformer block is exact nowhere: lessons 01 to 05 have it"; }

inline void add_size_flags(App& app, ModelConfig& m, std::int64_t most_ids = 1 << 20) {
  app.size("--width", m.attention.width, "W");
  app.size("--heads", m.attention.heads, "heads of W / heads columns");
  app.size("--seq", m.attention.options.seq, "tokens of a sequence");
  app.flags().number("--vocab", m.vocabulary, 1, most_ids, "number of ids");
}

/// Gives the model its batch of `sequences`, in so many microbatches. Throws UsageError where the heads do
/// not divide the width, or where there are too many tokens.
inline void set_batch(ModelConfig& m, std::int64_t sequences, std::int64_t microbatches,
                      std::int64_t most_tokens = 1 << 20) {
  m.attention.kv_heads = m.attention.heads;
  m.attention.options.batch = sequences / microbatches;
  m.tokens = sequences * m.seq();
  attention_heads::check_shape(m.attention, m.tokens, most_tokens);
}

}  // namespace tessera::gpt
