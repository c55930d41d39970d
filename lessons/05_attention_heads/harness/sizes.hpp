// The sizes of lesson 05: their flags, the messages that say which sizes would work, and what each of p ranks
// holds of them.
#pragma once

#include "05_attention_heads/attention_heads.hpp"
#include "app/app.hpp"
#include "tensor/error.hpp"

namespace tessera::attention_heads {

enum class Part { attention, block };
inline const std::vector<std::pair<Mask, std::string>> mask_names = {
    {Mask::causal, "causal"}, {Mask::none, "none"}, {Mask::padding, "padding"}};

struct Sizes {
  AttentionShape shape;
  Part part = Part::attention;
  bool trap_qkv = false;  // the trap: cut [Q | K | V] as if it were one matrix

  std::int64_t n() const { return shape.tokens(); }
  std::int64_t w() const { return shape.width; }
  std::int64_t qkv() const { return shape.width + 2 * shape.kv_width(); }
  /// Where p ranks cannot share out the kv heads, K and V are whole on every rank.
  bool shares_keys(std::int64_t p) const { return shape.kv_heads % p != 0; }
};

/// Throws UsageError where the heads do not divide the width, or where there are too many tokens.
inline void check_shape(const AttentionShape& s, std::int64_t tokens, std::int64_t most_tokens = 1 << 20) {
  refuse_if(s.width % s.heads != 0, "--heads {} does not divide --width {}: --width {} would work", s.heads,
            s.width, (s.width / s.heads + 1) * s.heads);
  refuse_if(tokens > most_tokens, "--batch {} and --seq {} make {} tokens: up to {} would work",
            tokens / s.options.seq, s.options.seq, tokens, most_tokens);
}

/// Fills in what follows from the other sizes. With padding, sequence b ends after seq - b seq / (2 batch)
/// tokens.
inline void complete(Sizes& s) {
  AttentionOptions& o = s.shape.options;
  if (s.shape.kv_heads == 0) s.shape.kv_heads = s.shape.heads;
  if (o.mask != Mask::padding) return;
  std::vector<double> lengths;
  for (std::int64_t b = 0; b < o.batch; ++b) {
    const std::int64_t masked = b * o.seq / (2 * o.batch);
    lengths.push_back(static_cast<double>(o.seq - masked));
  }
  const Device::Scope host(Device::host());
  o.lengths = Tensor::of(o.batch, 1, lengths, DType::i32);
}

/// Why a block has no exact tier.
inline std::string inexact(Part part) {
  return part == Part::block ? "a layer norm is exact nowhere; --part attention covers the projections" : "";
}

inline void add_shape_flags(App& app, AttentionShape& s) {
  AttentionOptions& o = s.options;
  app.size("--batch", o.batch, "sequences");
  app.size("--seq", o.seq, "tokens of a sequence; N = batch seq");
  app.size("--width", s.width, "W, columns of X");
  app.size("--heads", s.heads, "heads, of W / heads columns each");
  app.flags().number("--kv-heads", s.kv_heads, 0, 1 << 20, "heads of K and V; 0: as many as heads");
  app.flags().choice("--mask", o.mask, mask_names,
                     "padding: sequence b ends after seq - b seq/(2 batch) tokens");
}

inline void add_flags(App& app, Sizes& s) {
  using Form = AttentionOptions::Form;
  AttentionOptions& o = s.shape.options;
  Flags& flags = app.flags();
  add_shape_flags(app, s.shape);
  flags.real("--dropout", o.dropout, 0, 0.99,
             "rate for the probabilities, and for the two halves of a block");
  flags.choice("--part", s.part, {{Part::attention, "attention"}, {Part::block, "block"}},
               "attention alone, or the transformer block");
  flags.choice("--trap", s.trap_qkv, {{true, "qkv"}},
               "a mistake to look at: [Q|K|V] is cut as if it were one matrix");
  flags.choice("--form", o.form,
               {{Form::automatic, "auto"}, {Form::plain, "plain"}, {Form::streaming, "streaming"}},
               "streaming goes through tiles of keys; auto takes it from seq 256 on, and on GPUs");
  app.ranks_divide("--heads", s.shape.heads);
}

/// Completes the sizes for p ranks. Throws UsageError where they cannot be cut over these.
inline void set_sizes(Sizes& s, const Options& options, int p) {
  complete(s);
  s.shape.options.seed = options.seed;
  const std::int64_t a = s.shape.heads, kv = s.shape.kv_heads;
  check_shape(s.shape, s.n());
  refuse_if(s.trap_qkv && (p == 1 || s.shares_keys(p) || s.part == Part::block),
            "--trap qkv cuts K and V over several ranks: --part attention --kv-heads 0 --ranks 4 would work");
  if (a % kv == 0 && (kv == 1 || kv % p == 0)) return;
  const auto fits = [&](std::int64_t n) { return a % n == 0 && (n == 1 || n % p == 0); };
  throw UsageError(
      "--kv-heads {} on {}{}: 1, or a number that {} divides and that divides the {} heads: "
      "--kv-heads {} would work",
      kv, p, p == 1 ? " rank" : " ranks", p, a, fitting(a, fits));
}

/// The columns of [Q | K | V] that the rank has, as a slice of the whole, which is (rows, W + 2 kv d).
inline Slice own_columns(std::int64_t rows, const Sizes& s, int rank, int p) {
  if (s.trap_qkv) return Slice::columns(rows, s.qkv(), rank, p);
  if (!s.shares_keys(p)) return qkv_slice(rows, s.shape, rank, p);
  Slice slice = Slice::columns(rows, s.w(), rank, p);  // its columns of Q, and all of K and V
  slice.whole_cols = s.qkv();
  slice.col_ranges.push_back({s.w(), s.qkv()});
  return slice;
}

/// What each of p ranks holds: columns of c_attn, and elements of attention's weights.
inline std::int64_t own_qkv(const Sizes& s, int p) {
  return s.w() / p + 2 * (s.shares_keys(p) ? s.shape.kv_width() : s.shape.kv_width() / p);
}
inline std::int64_t attention_weights(const Sizes& s, int p) {
  return (s.w() + 1) * own_qkv(s, p) + s.w() * s.w() / p + s.w();
}

/// How many elements of x differ from those of rank 0 on some rank; a NaN always differs.
inline double ranks_apart(Communicator& comm, const Tensor& x) {
  const CheckScope scope(comm);
  const std::vector<double> all = comm.all_gather(x.reshape(1, x.size()), 0).values();
  double apart = 0;
  for (std::size_t i = 0; i < all.size(); ++i) apart += !(all[i] == all[i % x.size()]);
  return apart;
}

}  // namespace tessera::attention_heads
