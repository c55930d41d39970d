// Streaming attention on a GPU. A block of threads owns a tile of queries of one head, goes along the tiles
// of keys, and holds scores, maxima, sums and output in registers: no score is ever in the GPU's memory (Dao
// et al. 2022). The backward computes the scores again, twice: in query_gradient_kernel a block owns queries
// and goes along the keys, in key_gradient_kernel it owns keys and goes along the queries (as in Dao 2023).
// So each sum has one owner and a fixed order.
#include <climits>
#include <type_traits>

#include "ops/attention.hpp"
#include "ops/attention_functions.hpp"
#include "ops/cuda_launch.hpp"
#include "ops/cuda_tiles.hpp"

namespace tessera {

namespace {

/// The arguments of a call, and after find() what this block has of it: the tile `index` of rows of head h of
/// sequence b, and `width` columns from `column` on. Query head h uses kv head h / group.
template <class S, class T = Arithmetic<S>>
struct Call {
  AttentionTile all;
  View<S> q, k, v, o, dy, dq, dk, dv;
  View<T> log_sum, delta;
  int seq, d, group, width = 0;
  int b = 0, h = 0, index = 0, column = 0;

  __device__ void find(int heads) {
    const int parts = (d + width - 1) / width, tiles = (seq + Tile<S>::side - 1) / Tile<S>::side;
    const int block = static_cast<int>(blockIdx.x);
    column = block % parts * width, index = block / parts % tiles;
    h = block / parts / tiles % heads, b = block / parts / tiles / heads;
  }
  /// The first of this block's queries. Under a causal mask the last queries see the most keys, so they begin
  /// first.
  __device__ int first_query() const { return ((seq - 1) / Tile<S>::side - index) * Tile<S>::side; }
  __device__ Head<S> head(const View<S>& x, int number) const {
    return {x.row(std::int64_t{b} * seq) + std::int64_t{number} * d, x.ld, seq, d};
  }
  /// The number of keys that query i sees.
  __device__ int visible(int i) const {
    if (all.mask == Mask::padding) return min(static_cast<int>(all.lengths[b]), seq);
    return all.mask == Mask::causal ? min(i + 1, seq) : seq;
  }
  /// The row of query i of a head among the rows of all heads, and x there.
  __device__ std::int64_t row(int head, int i) const {
    return (std::int64_t{b} * all.heads + head) * seq + i;
  }
  __device__ T at(const View<T>& x, int head, int i) const { return i < seq ? *x.row(row(head, i)) : T(0); }
  /// The factor of dropout for the probability of a key: kept(drawn(head, query), key).
  __device__ std::uint64_t drawn(int head, int i) const {
    return all.dropout.threshold > 0 ? all.dropout.index(row(head, i)) : 0;
  }
  __device__ T kept(std::uint64_t drawn, int key) const {
    return all.dropout.threshold > 0 ? all.dropout.factor<T>(drawn, key) : T(1);
  }
  /// Writes the block's tile of x.
  template <int blocks>
  __device__ void store(const View<S>& x, int first, const T (&c)[blocks][4][4]) const {
    const Head<S> to = head(x, h);
    unrolled<blocks>([&](int n) {
      own_elements([&](int r, int s) {
        const int i = first + 4 * Tile<S>::y() + r, j = column + n * Tile<S>::side + 4 * Tile<S>::x() + s;
        if (i < seq && j < d) to.data[i * to.ld + j] = c[n][r][s];
      });
    });
  }
};

/// The online softmax of OnlineSoftmaxRow (attention_functions.hpp), in registers.
template <class S, int blocks, class T = Arithmetic<S>>
__global__ void __launch_bounds__(Tile<S>::threads, Tile<S>::resident(blocks)) attention_kernel(Call<S> at) {
  __shared__ Tile<S> tile;
  at.find(static_cast<int>(at.all.heads));
  const int first = at.first_query(), x = tile.x(), y = tile.y(), end = at.visible(first + tile.side - 1);
  const Head<S> queries = at.head(at.q, at.h), keys = at.head(at.k, at.h / at.group),
                values = at.head(at.v, at.h / at.group);
  const T scale = T(at.all.scale);
  T out[blocks][4][4] = {}, largest[4], sum[4] = {};
  unrolled([&](int r) { largest[r] = -T(INFINITY); });
  for (int key = 0; key < end; key += tile.side) {
    T p[4][4];
    score(p, queries, first, keys, key, tile);
    unrolled([&](int r) {
      const int i = first + 4 * y + r, seen = at.visible(i) - key;
      T m = largest[r];
      unrolled([&](int s) {
        if (4 * x + s >= seen) p[r][s] = -T(INFINITY);
        m = max(m, p[r][s]);
      });
      m = fold_lanes<Tile<S>::lanes>(m, Larger{});
      const T before = exponential(scale * (largest[r] - m));  // the sums so far are relative to the old m
      largest[r] = m;
      sum[r] *= before;
      unrolled<blocks>([&](int n) { unrolled([&](int s) { out[n][r][s] *= before; }); });
      const std::uint64_t drawn = at.drawn(at.h, i);
      unrolled([&](int s) {
        p[r][s] = exponential(scale * (p[r][s] - m));
        sum[r] += p[r][s];
        p[r][s] *= at.kept(drawn, key + 4 * x + s);
      });
    });
    mix(out, p, values, key, at.column, tile);
  }
  unrolled([&](int r) {
    sum[r] = fold_lanes<Tile<S>::lanes>(sum[r], Sum{});
    const T total = sum[r] == 0 ? T(1) : sum[r];  // a query that saw no key has o = 0
    unrolled<blocks>([&](int n) { unrolled([&](int s) { out[n][r][s] /= total; }); });
    const int i = first + 4 * y + r;
    if (x == 0 && at.column == 0 && i < at.seq)
      *at.log_sum.row(at.row(at.h, i)) = scale * largest[r] + std::log(sum[r]);
  });
  at.store(at.o, first, out);
}

/// dq, and delta for the other kernel: the steps of DeltaRow and AttentionBackwardRow.
template <class S, int blocks, class T = Arithmetic<S>>
__global__ void __launch_bounds__(Tile<S>::threads, Tile<S>::resident(blocks))
    query_gradient_kernel(Call<S> at) {
  __shared__ Tile<S> tile;
  at.find(static_cast<int>(at.all.heads));
  const int first = at.first_query(), x = tile.x(), y = tile.y(), end = at.visible(first + tile.side - 1);
  const Head<S> queries = at.head(at.q, at.h), o = at.head(at.o, at.h), dy = at.head(at.dy, at.h),
                keys = at.head(at.k, at.h / at.group), values = at.head(at.v, at.h / at.group);
  const T scale = T(at.all.scale);
  T dq[blocks][4][4] = {}, log_sum[4], delta[4];
  unrolled([&](int r) {
    const int i = first + 4 * y + r;
    T terms = 0;
    for (int j = x; j < at.d; j += tile.lanes) terms += dy.at(i, j) * o.at(i, j);
    delta[r] = fold_lanes<Tile<S>::lanes>(terms, Sum{});
    log_sum[r] = at.at(at.log_sum, at.h, i);
    if (x == 0 && at.column == 0 && i < at.seq) *at.delta.row(at.row(at.h, i)) = delta[r];
  });
  for (int key = 0; key < end; key += tile.side) {
    T p[4][4], ds[4][4];
    score(p, queries, first, keys, key, tile);
    score(ds, dy, first, values, key, tile);
    unrolled([&](int r) {
      const int i = first + 4 * y + r, seen = at.visible(i) - key;
      const std::uint64_t drawn = at.drawn(at.h, i);
      unrolled([&](int s) {
        const T dp = at.kept(drawn, key + 4 * x + s) * ds[r][s];
        ds[r][s] =
            4 * x + s < seen ? scale * exponential(scale * p[r][s] - log_sum[r]) * (dp - delta[r]) : T(0);
      });
    });
    mix(dq, ds, keys, key, at.column, tile);
  }
  at.store(at.dq, first, dq);
}

/// dk and dv. The rows of a tile are keys here, and its columns the queries of all heads that use these keys.
template <class S, int blocks, class T = Arithmetic<S>>
__global__ void __launch_bounds__(Tile<S>::threads, Tile<S>::resident(blocks))
    key_gradient_kernel(Call<S> at) {
  __shared__ Tile<S> tile;
  at.find(static_cast<int>(at.all.heads) / at.group);
  const int first = at.index * tile.side, x = tile.x(), y = tile.y();
  const Head<S> keys = at.head(at.k, at.h), values = at.head(at.v, at.h);
  const T scale = T(at.all.scale);
  T dk[blocks][4][4] = {}, dv[blocks][4][4] = {};
  const int begin = first >= at.visible(at.seq - 1) ? at.seq : at.all.mask == Mask::causal ? first : 0;
  for (int h = at.h * at.group; h < (at.h + 1) * at.group; ++h) {
    const Head<S> queries = at.head(at.q, h), dy = at.head(at.dy, h);
    for (int query = begin; query < at.seq; query += tile.side) {
      T p[4][4], ds[4][4];
      score(p, keys, first, queries, query, tile);
      score(ds, values, first, dy, query, tile);
      unrolled([&](int s) {
        const int i = query + 4 * x + s, seen = i < at.seq ? at.visible(i) : 0;
        const T log_sum = at.at(at.log_sum, h, i), delta = at.at(at.delta, h, i);
        const std::uint64_t drawn = at.drawn(h, i);
        unrolled([&](int r) {
          const int j = first + 4 * y + r;
          const T factor = at.kept(drawn, j), q = j < seen ? exponential(scale * p[r][s] - log_sum) : T(0);
          ds[r][s] = j < seen ? scale * q * (factor * ds[r][s] - delta) : T(0);
          p[r][s] = factor * q;
        });
      });
      mix(dv, p, dy, query, at.column, tile);
      mix(dk, ds, queries, query, at.column, tile);
    }
  }
  at.store(at.dk, first, dk);
  at.store(at.dv, first, dv);
}

/// Calls f with the arguments of the kernels, and with how many tiles' columns a block computes: two where a
/// head has more than one has. For wider heads the blocks are repeated for the next columns.
template <class F>
void call_of(const AttentionSaved& s, const AttentionTile& all, const F& f) {
  const int seq = static_cast<int>(all.seq), d = static_cast<int>(s.q.cols() / all.heads),
            group = static_cast<int>(s.q.cols() / s.k.cols());
  floating(s.q.dtype(), [&]<class S>(S) {
    Call<S> call{all, s.q, s.k, s.v, s.o, {}, {}, {}, {}, s.log_sum, {}, seq, d, group};
    const auto with = [&](auto blocks) { call.width = blocks * Tile<S>::side, f(call, blocks); };
    if (d <= Tile<S>::side)
      with(std::integral_constant<int, 1>{});
    else
      with(std::integral_constant<int, 2>{});
  });
}

/// A block for each tile and each part of the columns of `heads` heads.
template <class S>
void launch_tiles(const Tensor& q, std::int64_t heads, void (*kernel)(Call<S>), const Call<S>& call) {
  using Sides = Tile<S>;
  const std::int64_t tiles = (call.seq + Sides::side - 1) / Sides::side * q.rows() / call.seq;
  const std::int64_t blocks = tiles * heads * ((call.d + call.width - 1) / call.width);
  expect(blocks <= INT_MAX, [&] { return format("attention: a GPU cannot count {} blocks", blocks); });
  launch(q, {blocks, 1, Sides::threads}, kernel, call);
}

}  // namespace

void fused_attention(const AttentionSaved& saved, const AttentionTile& all) {
  call_of(saved, all, [&]<class S, class N>(const Call<S>& call, N) {
    launch_tiles(saved.q, all.heads, attention_kernel<S, N::value>, call);
  });
}

void fused_attention_backward(const Tensor& dy, const AttentionSaved& saved, const AttentionTile& all,
                              const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const Tensor delta = empty_like(saved.log_sum);
  call_of(saved, all, [&]<class S, class N>(Call<S> call, N) {
    call.dy = dy, call.dq = dq, call.dk = dk, call.dv = dv, call.delta = delta;
    launch_tiles(dy, all.heads, query_gradient_kernel<S, N::value>, call);
    launch_tiles(dy, all.heads / call.group, key_gradient_kernel<S, N::value>, call);
  });
}

}  // namespace tessera
