#include "ops/attention.hpp"

#include <algorithm>
#include <cmath>

#include "ops/attention_functions.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

/// The sizes of one call, and its products over all heads. Query head h = n group + g uses kv head n. There
/// is a product for each g, whose inner stack is the kv heads; results that are sums over g are added in the
/// order of g.
struct Heads {
  const AttentionOptions& options;
  std::int64_t group, d;  // query heads for each kv head; columns of a head

  Heads(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o)
      : options(o),
        group(o.kv_heads > 0 ? o.heads / o.kv_heads : 0),
        d(o.heads > 0 ? q.cols() / o.heads : 0) {
    const auto fits = [&](const Tensor& x, std::int64_t heads) {
      return x.rows() == o.batch * o.seq && x.cols() == heads * d && x.dtype() == q.dtype() &&
             x.dtype() != DType::i32 && x.device() == q.device();
    };
    expect(o.seq > 0 && d > 0 && group > 0 && group * o.kv_heads == o.heads && fits(q, o.heads) &&
               fits(k, o.kv_heads) && fits(v, o.kv_heads),
           [&] {
             return format(
                 "attention: q {}, k {} and v {} are not {} sequences of {} with {} heads of queries and {} "
                 "of keys on one device",
                 shape(q), shape(k), shape(v), o.batch, o.seq, o.heads, o.kv_heads);
           });
    expect(o.mask != Mask::padding ||
               (o.lengths.dtype() == DType::i32 && o.lengths.rows() == o.batch && o.lengths.cols() == 1 &&
                o.lengths.device() == q.device() && o.lengths.is_contiguous()),
           [&] { return format("attention: lengths {} are not ({}, 1) i32", shape(o.lengths), o.batch); });
    expect(o.dropout >= 0 && o.dropout < 1,
           [&] { return format("attention: a dropout of {:g} is not in [0, 1)", o.dropout); });
  }

  /// The tile of keys [first, first + keys) and of the queries that see any of them: with a causal mask those
  /// from `first` on.
  AttentionTile tile(std::int64_t first, std::int64_t keys) const {
    const AttentionOptions& o = options;
    const std::int64_t all = o.all_heads > 0 ? o.all_heads : o.heads;
    const Position where{.first_row = o.first_batch * all * o.seq,
                         .first_col = first,
                         .cols = o.seq,
                         .seq = o.seq,
                         .heads = o.heads,
                         .all_heads = all,
                         .first_head = o.first_head};
    return {.mask = o.mask,
            .seq = o.seq,
            .heads = o.heads,
            .first_query = o.mask == Mask::causal ? first : 0,
            .first_key = first,
            .keys = keys,
            .lengths = o.mask == Mask::padding ? o.lengths.data<std::int32_t>() : nullptr,
            .scale = 1 / std::sqrt(static_cast<double>(d)),
            .dropout = {o.dropout, o.seed, where}};
  }

  /// (batch heads seq, cols), one row for each query of each head.
  Tensor rows(std::int64_t cols, const Tensor& like) const { return rows(cols, like, like.dtype()); }
  /// (batch heads seq, 1), one number for each query of each head, in the dtype that is computed in.
  Tensor column(const Tensor& like) const { return rows(1, like, arithmetic(like.dtype())); }

  /// The g-th query heads of x (batch seq, heads d), with its tokens from `first` on.
  Stack queries(const Tensor& x, std::int64_t g, std::int64_t first) const {
    return {x, options.seq - first, d, first * x.ld() + g * d, options.seq * x.ld(), group * d};
  }
  /// The kv heads of x (batch seq, kv_heads d), with the tokens of the tile.
  Stack keys(const Tensor& x, const AttentionTile& t) const {
    return {x, t.keys, d, t.first_key * x.ld(), options.seq * x.ld(), d};
  }
  /// The scores of the g-th query heads in the tensor of a tile.
  Stack scores(const Tensor& x, std::int64_t g, const AttentionTile& t) const {
    const std::int64_t head = options.seq * x.ld();
    return {x,
            options.seq - t.first_query,
            t.keys,
            g * head + t.first_query * x.ld(),
            options.heads * head,
            group * head};
  }

  /// s = a k^T: scores from q, or the gradient of the probabilities from dy and v.
  void score(const Tensor& s, const Tensor& a, const Tensor& k, const AttentionTile& t) const {
    for (std::int64_t g = 0; g < group; ++g)
      gemm(scores(s, g, t), 0, queries(a, g, t.first_query), false, keys(k, t), true);
  }
  /// o = beta o + p v: the output, or dq from ds and k.
  void mix(const Tensor& o, double beta, const Tensor& p, const Tensor& v, const AttentionTile& t) const {
    for (std::int64_t g = 0; g < group; ++g)
      gemm(queries(o, g, t.first_query), beta, scores(p, g, t), false, keys(v, t), false);
  }
  /// dv = p^T dy: the gradient of v, or dk from ds and q. No other tile adds to the gradients of these keys.
  void collect(const Tensor& dv, const Tensor& p, const Tensor& dy, const AttentionTile& t) const {
    for (std::int64_t g = 0; g < group; ++g)
      gemm(keys(dv, t), g > 0, scores(p, g, t), true, queries(dy, g, t.first_query), false);
  }

 private:
  Tensor rows(std::int64_t cols, const Tensor& like, DType dtype) const {
    return Tensor::empty(options.batch * options.heads * options.seq, cols, dtype, like.device());
  }
  void gemm(const Stack& c, double beta, const Stack& a, bool ta, const Stack& b, bool tb) const {
    kernels_of(c.of).gemm(c, beta, a, ta, b, tb, options.batch, options.kv_heads);
  }
};

/// Calls body(tile) for each tile of keys, from the first to the last.
template <class Body>
void for_tiles(const Heads& heads, const Body& body) {
  const std::int64_t seq = heads.options.seq;
  for (std::int64_t first = 0; first < seq; first += attention_tile_keys)
    body(heads.tile(first, std::min(attention_tile_keys, seq - first)));
}

}  // namespace

Tensor dropout(const Tensor& x, double rate, std::uint64_t seed, const Position& where) {
  expect(x.dtype() != DType::i32,
         [&] { return format("dropout: {}: i32 is for ids, not for arithmetic", shape(x)); });
  expect(rate >= 0 && rate < 1, [&] { return format("dropout: a rate of {:g} is not in [0, 1)", rate); });
  expect(where.seq > 0 && where.heads > 0 && x.rows() % (where.seq * where.heads) == 0, [&] {
    return format("dropout: {} does not hold sequences of {} for {} heads", shape(x), where.seq, where.heads);
  });
  Position place = where;
  if (place.cols == 0) place.cols = x.cols();
  Tensor y = empty_like(x);
  kernels_of(x).dropout(y, x, {rate, seed, place});
  return y;
}

void merge_attention(const Tensor& o, const Tensor& log_sum, const Tensor& more, const Tensor& more_log_sum,
                     const AttentionOptions& options) {
  const Tensor merged = empty_like(log_sum);
  for (const Tensor& x : {log_sum, more_log_sum})
    expect(more.rows() == o.rows() && more.cols() == o.cols() && o.rows() == options.batch * options.seq &&
               x.rows() == o.rows() * options.heads && x.cols() == 1 && x.dtype() == arithmetic(o.dtype()),
           [&] {
             return format(
                 "merge_attention: o {} and {}, log_sum {} are not {} sequences of {} with {} heads",
                 shape(o), shape(more), shape(x), options.batch, options.seq, options.heads);
           });
  kernels_of(o).merge_attention(o, more, log_sum, more_log_sum, merged,
                                {.mask = Mask::none, .seq = options.seq, .heads = options.heads});
  log_sum.copy_from(merged);
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                 AttentionSaved& saved) {
  const Heads heads(q, k, v, options);
  const Kernels& kernels = kernels_of(q);
  const std::int64_t seq = options.seq;
  Tensor o = empty_like(q);
  saved = {q, k, v, o, {}, {}};
  if (options.streams(q.device()->kind())) {
    saved.log_sum = heads.column(q);
    if (q.device()->kind() == DeviceKind::cuda) {
      fused_attention(saved, heads.tile(0, seq));
      return o;
    }
    const Tensor scores = heads.rows(std::min(attention_tile_keys, seq), q), sum = heads.column(q);
    for_tiles(heads, [&](const AttentionTile& tile) {
      heads.score(scores, q, k, tile);
      online_softmax(scores, o, saved.log_sum, sum, tile);  // log_sum: the largest score so far
      heads.mix(o, tile.first_key > 0, scores, v, tile);
    });
    online_softmax_end(o, saved.log_sum, sum, heads.tile(0, seq));
  } else {
    const AttentionTile all = heads.tile(0, seq);
    saved.p = heads.rows(seq, q);
    heads.score(saved.p, q, k, all);
    kernels.softmax(saved.p, saved.p, all);
    const Tensor kept = options.dropout > 0 ? empty_like(saved.p) : saved.p;
    if (options.dropout > 0) kernels.dropout(kept, saved.p, all.dropout);
    heads.mix(o, 0, kept, v, all);
  }
  return o;
}

void attention_backward(const Tensor& dy, const AttentionSaved& saved, const AttentionOptions& options,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const Heads heads(saved.q, saved.k, saved.v, options), shapes(dq, dk, dv, options),
      given(dy, dk, dv, options);
  const Kernels& kernels = kernels_of(dy);
  const std::int64_t seq = options.seq;
  if (saved.log_sum.defined() && dy.device()->kind() == DeviceKind::cuda) {
    fused_attention_backward(dy, saved, heads.tile(0, seq), dq, dk, dv);
  } else if (saved.log_sum.defined()) {
    const std::int64_t width = std::min(attention_tile_keys, seq);
    const Tensor scores = heads.rows(width, dy), dp = heads.rows(width, dy), delta = heads.column(dy);
    attention_delta(delta, dy, saved.o, heads.tile(0, seq));
    for_tiles(heads, [&](const AttentionTile& tile) {
      heads.score(scores, saved.q, saved.k, tile);
      heads.score(dp, dy, saved.v, tile);
      attention_tile_backward(scores, dp, saved.log_sum, delta, tile);  // p and ds
      heads.collect(dv, scores, dy, tile);
      heads.collect(dk, dp, saved.q, tile);
      heads.mix(dq, tile.first_key > 0, dp, saved.k, tile);
    });
  } else {
    const AttentionTile all = heads.tile(0, seq);
    const Tensor ds = heads.rows(seq, dy);
    if (options.dropout > 0) kernels.dropout(ds, saved.p, all.dropout);
    heads.collect(dv, options.dropout > 0 ? ds : saved.p, dy, all);
    heads.score(ds, dy, saved.v, all);  // the gradient of the dropped probabilities
    if (options.dropout > 0) kernels.dropout(ds, ds, all.dropout);
    kernels.softmax_backward(ds, ds, saved.p, all.scale);
    heads.collect(dk, ds, saved.q, all);
    heads.mix(dq, 0, ds, saved.k, all);
  }
}

}  // namespace tessera
