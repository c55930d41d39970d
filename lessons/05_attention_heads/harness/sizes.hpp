// The sizes of lesson 05, and what a rank of p holds of them.
#pragma once

#include <cmath>

#include "05_attention_heads/attention_heads.hpp"
#include "tensor/error.hpp"

namespace tessera::attention_heads {

enum class Part { attention, block };

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

/// Throws UsageError where the heads do not divide the width, or where there are more than 2^20 tokens.
inline void check_shape(const AttentionShape& s, std::int64_t tokens) {
  if (s.width % s.heads != 0)
    throw UsageError(format("--heads {} does not divide --width {}: --width {} would work", s.heads, s.width,
                            (s.width / s.heads + 1) * s.heads));
  if (tokens > 1 << 20)
    throw UsageError(format("--batch {} and --seq {} make {} tokens: up to 1048576 would work",
                            tokens / s.options.seq, s.options.seq, tokens));
}

/// Sets what the command line says in words. With padding,
/// sequence b ends after seq - b seq / (2 batch) tokens.
inline void apply_arguments(Sizes& s, const std::string& mask, const std::string& part,
                            const std::string& form) {
  AttentionOptions& o = s.shape.options;
  if (s.shape.kv_heads == 0) s.shape.kv_heads = s.shape.heads;
  s.part = part == "block" ? Part::block : Part::attention;
  o.mask = mask == "none" ? Mask::none : mask == "padding" ? Mask::padding : Mask::causal;
  if (form != "auto")
    o.form = form == "plain" ? AttentionOptions::Form::plain : AttentionOptions::Form::streaming;
  std::vector<double> lengths;
  for (std::int64_t b = 0; b < o.batch; ++b) {
    const std::int64_t cut = b * o.seq / (2 * o.batch);
    lengths.push_back(static_cast<double>(o.seq - cut));
  }
  const Device::Scope host(Device::host());
  if (o.mask == Mask::padding) o.lengths = Tensor::of(o.batch, 1, lengths, DType::i32);
}

/// The columns of [Q | K | V] that the rank has, as a slice of the whole. (rows, W + 2 kv d)
inline Slice own_columns(std::int64_t rows, const Sizes& s, int rank, int p) {
  if (s.trap_qkv) return Slice::columns(rows, s.qkv(), rank, p);
  if (!s.shares_keys(p)) return qkv_slice(rows, s.shape, rank, p);
  Slice slice = Slice::columns(rows, s.w(), rank, p);  // its columns of Q, and all of K and V
  slice.whole_cols = s.qkv();
  slice.col_ranges.push_back({s.w(), s.qkv()});
  return slice;
}

/// What each of p ranks holds: columns of c_attn; elements of attention's weights; elements that the core
/// keeps for the backward, where a number that stands for a row takes as much as `wide` elements.
inline std::int64_t own_qkv(const Sizes& s, int p) {
  return s.w() / p + 2 * (s.shares_keys(p) ? s.shape.kv_width() : s.shape.kv_width() / p);
}
inline std::int64_t attention_weights(const Sizes& s, int p) {
  return (s.w() + 1) * own_qkv(s, p) + s.w() * s.w() / p + s.w();
}
inline std::int64_t core_saved(const Sizes& s, int p, bool exact, std::int64_t wide) {
  const AttentionOptions& o = s.shape.options;
  return exact ? 0 : o.batch * s.shape.heads / p * o.seq * (o.streams() ? wide : o.seq);
}

/// How many elements of x differ from those of rank 0 on some rank; a NaN always differs.
inline double ranks_apart(Communicator& comm, const Tensor& x) {
  const MemoryScope scope(MemoryKind::check);
  const Phase phase = comm.phase("check");
  const std::vector<double> all = comm.all_gather(x.reshape(1, x.size()), 0).values();
  const auto size = static_cast<std::size_t>(x.size());
  double apart = 0;
  for (std::size_t i = 0; i < all.size(); ++i) apart += !(all[i] == all[i % size]);
  return apart;
}

}  // namespace tessera::attention_heads
