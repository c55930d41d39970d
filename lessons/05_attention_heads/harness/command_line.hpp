// From the command line to Sizes, or to a message that says what would work.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "app/app.hpp"

namespace tessera::attention_heads {

/// What the command line says in words.
struct Arguments {
  std::string mask = "causal", part = "attention", trap, form = "auto";
  int ranks = 1;
};

inline void add_flags(App& app, Sizes& s, Arguments& arguments) {
  AttentionOptions& o = s.shape.options;
  app.size("--batch", o.batch, "sequences");
  app.size("--seq", o.seq, "tokens of a sequence; N = batch seq");
  app.size("--width", s.shape.width, "W, columns of X");
  app.size("--heads", s.shape.heads, "heads, of W / heads columns each");
  app.flags().number("--kv-heads", s.shape.kv_heads, 0, 1 << 20, "heads of K and V; 0: as many as heads");
  app.flags().choice("--mask", arguments.mask, {"causal", "none", "padding"},
                     "padding: sequence b ends after seq - b seq/(2 batch) tokens");
  app.flags().real("--dropout", o.dropout, 0, 0.99,
                   "rate for the probabilities, and for the two halves of a block");
  app.flags().choice("--part", arguments.part, {"attention", "block"},
                     "attention alone, or the transformer block");
  app.flags().choice("--trap", arguments.trap, {"qkv"},
                     "a mistake to look at: [Q|K|V] is cut as if it were one matrix");
  app.flags().choice("--form", arguments.form, {"auto", "plain", "streaming"},
                     "streaming goes through tiles of keys; auto takes it from seq 256 on");
  app.ranks_divide("--heads", s.shape.heads);
}

/// Throws UsageError where the sizes cannot be cut over p ranks.
inline void check_heads(const Sizes& s, int p, const Options& options) {
  const std::int64_t a = s.shape.heads, kv = s.shape.kv_heads;
  if (options.no_baseline)
    throw UsageError("--no-baseline is for lessons 01 to 04: without it this lesson would work");
  check_shape(s.shape, s.n());
  if (s.trap_qkv && (p == 1 || s.shares_keys(p) || s.part == Part::block))
    throw UsageError(
        "--trap qkv cuts K and V over several ranks: --part attention --kv-heads 0 --ranks 4 would work");
  if (a % kv == 0 && (kv == 1 || kv % p == 0)) return;
  std::string fitting;
  for (std::int64_t n = 1; n <= a; ++n)
    if (a % n == 0 && (n == 1 || n % p == 0)) fitting += format("{}{}", fitting.empty() ? "" : ", ", n);
  throw UsageError(
      format("--kv-heads {} on {}{}: 1, or a number that {} divides and that divides the {} heads: "
             "--kv-heads {} would work",
             kv, p, p == 1 ? " rank" : " ranks", p, a, fitting));
}

inline void set_sizes(Sizes& s, Arguments& arguments, const Options& options, int ranks) {
  arguments.ranks = ranks;
  apply_arguments(s, arguments.mask, arguments.part, arguments.form);
  s.shape.options.seed = static_cast<std::uint64_t>(options.seed);
  s.trap_qkv = arguments.trap == "qkv";
  check_heads(s, ranks, options);
}

}  // namespace tessera::attention_heads
