// The steps of streaming attention on the CPU, and the rows that they go through, written for a team
// (row_functions.hpp). On a GPU all steps are one kernel (attention_cuda.cu). A tile holds the scores q k^T
// of some keys: its row (b heads + h) seq + i belongs to query i of head h. A row of q, k, v and o is a
// token, and holds its heads side by side.
#pragma once

#include "ops/row_functions.hpp"

namespace tessera {

void online_softmax(const Tensor& scores, const Tensor& o, const Tensor& largest, const Tensor& sum,
                    const AttentionTile& tile);
void online_softmax_end(const Tensor& o, const Tensor& largest, const Tensor& sum, const AttentionTile& tile);
void attention_delta(const Tensor& delta, const Tensor& dy, const Tensor& o, const AttentionTile& tile);
void attention_tile_backward(const Tensor& scores, const Tensor& dp, const Tensor& log_sum,
                             const Tensor& delta, const AttentionTile& tile);

struct AttentionSaved;
/// Writes saved.o and saved.log_sum; `all` is the tile of all keys.
void fused_attention(const AttentionSaved& saved, const AttentionTile& all);
/// Writes dq, dk and dv.
void fused_attention_backward(const Tensor& dy, const AttentionSaved& saved, const AttentionTile& all,
                              const Tensor& dq, const Tensor& dk, const Tensor& dv);

/// Row r of the rows that a tile works on: its place, and how many of the tile's keys its query sees.
struct TileRow {
  std::int64_t row, token, head, heads, visible;
  TESSERA_BOTH TileRow(const AttentionTile& t, std::int64_t r) {
    const std::int64_t queries = t.seq - t.first_query, i = t.first_query + r % queries;
    const std::int64_t b = r / queries / t.heads;
    row = r / queries * t.seq + i;
    token = b * t.seq + i;
    head = r / queries % t.heads;
    heads = t.heads;
    std::int64_t end = t.first_key + t.keys;
    if (t.mask == Mask::causal) end = i + 1;
    if (t.mask == Mask::padding && t.lengths[b] < end) end = t.lengths[b];
    visible = end - t.first_key;
    visible = visible < 0 ? 0 : visible > t.keys ? t.keys : visible;
  }
  /// The columns of this head in the row of this token.
  template <class T>
  TESSERA_BOTH T* part(const View<T>& x) const {
    return x.row(token) + head * (x.cols / heads);
  }
};

/// p = softmax(scale x) over the keys that are seen, 0 elsewhere; p may be x. NaN where no key is seen.
template <class T>
struct SoftmaxRow {
  AttentionTile tile;
  View<T> probabilities, x;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t r) const {
    const TileRow at(tile, r);
    T* p = probabilities.row(at.row);
    const auto own = team.hold(x.row(at.row), at.visible);
    auto powers = team.room(p);
    const Exponentials<T> e(team, powers, own, at.visible, Arithmetic<T>(tile.scale));
    team.each(tile.keys, [&](auto j) { p[j] = (j < at.visible ? powers[j] : T(0)) / e.sum; });
  }
};

/// One step of the online softmax (Milakov and Gimelshein, algorithm 3). With m the largest score up to this
/// tile: p = exp(scale (scores - m)), sum = sum exp(scale (old m - m)) + sum of p, and o follows the change
/// of m. The first tile has no old m. Dropout acts on p, and not on the sum.
template <class T>
struct OnlineSoftmaxRow {
  using A = Arithmetic<T>;
  AttentionTile tile;
  View<T> scores, o;
  View<A> largest, sum;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t r) const {
    const TileRow at(tile, r);
    const bool first = tile.first_key == 0;
    const A scale = A(tile.scale);
    T* p = scores.row(at.row);
    const A old = first ? -A(INFINITY) : *largest.row(at.row);
    const A old_sum = first ? A(0) : *sum.row(at.row);
    const A here = team.largest(at.visible, [&](std::int64_t j) { return A(p[j]); });
    const A m = here > old ? here : old, kept = first      ? A(0)
                                                : old == m ? A(1)
                                                           : exponential(scale * (old - m));
    const A added =
        team.sum(at.visible, [&](std::int64_t j) { return A(p[j] = exponential(scale * (p[j] - m))); });
    team.each(tile.keys - at.visible, [&](std::int64_t j) { p[at.visible + j] = 0; });
    if (tile.dropout.threshold > 0) {
      const std::uint64_t index = tile.dropout.index(at.row);
      team.each(at.visible, [&](std::int64_t j) { p[j] = p[j] * tile.dropout.factor<A>(index, j); });
    }
    if (kept != 1 && !first) {
      T* out = at.part(o);
      team.each(o.cols / tile.heads, [&](std::int64_t j) { out[j] = out[j] * kept; });
    }
    if (!team.first()) return;  // the folds lie between the others' reading and this writing
    *largest.row(at.row) = m;
    *sum.row(at.row) = old_sum * kept + added;
  }
};

/// o /= sum; log_sum = scale m + log sum, in the place of m. A query that saw no key has o = 0 and log_sum =
/// minus infinity.
template <class T>
struct OnlineSoftmaxEndRow {
  using A = Arithmetic<T>;
  AttentionTile tile;
  View<T> o;
  View<A> largest, sum;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t r) const {
    const TileRow at(tile, r);
    const A total = *sum.row(at.row);
    T* out = at.part(o);
    team.each(o.cols / tile.heads, [&](std::int64_t j) { out[j] = out[j] / (total == 0 ? A(1) : total); });
    if (team.first()) *largest.row(at.row) = A(tile.scale) * *largest.row(at.row) + std::log(total);
  }
};

/// Two states of a softmax, each relative to its own log_sum, become one: relative to the larger of both, so
/// that no exponential overflows. Where neither has seen a key, nothing changes.
template <class T>
struct MergeRow {
  using A = Arithmetic<T>;
  AttentionTile tile;
  View<T> o, more;
  View<A> log_sum, more_log_sum, merged;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t r) const {
    const TileRow at(tile, r);
    const A a = *log_sum.row(at.row), b = *more_log_sum.row(at.row), most = a > b ? a : b;
    const bool none = most == -A(INFINITY);
    const A kept = none ? A(1) : exponential(a - most), added = none ? A(0) : exponential(b - most);
    T* out = at.part(o);
    const T* x = at.part(more);
    team.each(o.cols / tile.heads,
              [&](std::int64_t j) { out[j] = (kept * out[j] + added * x[j]) / (kept + added); });
    if (team.first()) *merged.row(at.row) = most + std::log(kept + added);
  }
};

/// delta = sum over a head's columns of dy o, which is sum_k dp_k p_k: o = sum_k p_k v_k and dp_k = dy v_k.
template <class T>
struct DeltaRow {
  AttentionTile tile;
  View<Arithmetic<T>> delta;
  View<T> dy, o;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t r) const {
    const TileRow at(tile, r);
    const T *g = at.part(dy), *y = at.part(o);
    const Arithmetic<T> value = team.sum(o.cols / tile.heads, [&](std::int64_t j) { return g[j] * y[j]; });
    if (team.first()) *delta.row(at.row) = value;
  }
};

/// From scores and dp = dy v^T: p = exp(scale scores - log_sum) again, ds = scale p (dp - delta) in the place
/// of dp, and what multiplied v, p after dropout, in the place of the scores.
template <class T>
struct AttentionBackwardRow {
  using A = Arithmetic<T>;
  AttentionTile tile;
  View<T> scores, dp;
  View<A> log_sum, delta;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t r) const {
    const TileRow at(tile, r);
    const A scale = A(tile.scale), shift = *log_sum.row(at.row), mean = *delta.row(at.row);
    T *s = scores.row(at.row), *g = dp.row(at.row);
    const auto both = [&](std::int64_t j, A factor) {
      const A p = exponential(scale * s[j] - shift);
      g[j] = scale * p * (factor * g[j] - mean);
      s[j] = factor * p;
    };
    const std::uint64_t index = tile.dropout.index(at.row);
    if (tile.dropout.threshold > 0)
      team.each(at.visible, [&](std::int64_t j) { both(j, tile.dropout.factor<A>(index, j)); });
    else
      team.each(at.visible, [&](std::int64_t j) { both(j, A(1)); });
    team.each(tile.keys - at.visible, [&](std::int64_t j) { s[at.visible + j] = g[at.visible + j] = 0; });
  }
};

}  // namespace tessera
