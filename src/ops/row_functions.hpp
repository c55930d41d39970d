// Each function that looks at a whole row, written once for a team. On the CPU a team is one lane, which goes
// along the row; on a GPU it is a warp, or all warps of a block. team.each(n, f) calls f(j) for j in [0, n).
// team.sum and team.largest fold what f returns, in an order that depends only on n, and give the result to
// all lanes. team.first() is true on one lane. A lane may read what it has written itself, and nothing that
// another lane writes. Elements are stored as T; what is computed of them, and each number that stands for a
// whole row, is an Arithmetic<T>. What is read several times is held: team.hold(x, n) are the elements of x,
// and team.room(p) stands for those of p that are not final yet. In short rows on a GPU both are registers of
// the lane that has element j; elsewhere they are x and p themselves.
#pragma once

#include "ops/functions.hpp"

namespace tessera {

/// p_j = exp(scale (x_j - largest)) for j < n; p may be x.
template <class T, class A = Arithmetic<T>>
struct Exponentials {
  A largest, sum;
  TESSERA_KERNEL Exponentials(const auto& team, auto& p, const auto& x, std::int64_t n, A scale)
      : largest(team.largest(n, [&](auto j) { return A(x[j]); })),  // keeps exp finite
        sum(team.sum(n,
                     [&, most = largest](auto j) { return A(p[j] = exponential(scale * (x[j] - most))); })) {}
};

template <class T>
struct EmbeddingRow {
  View<T> y, table;
  View<std::int32_t> ids;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const std::int64_t id = ids.data[i];
    const bool known = 0 <= id && id < table.rows;
    const T* from = table.row(known ? id : 0);
    T* to = y.row(i);
    team.each(y.cols, [&](std::int64_t j) { to[j] = known ? from[j] : T(0); });
  }
};

template <class T>
struct ScaledRow {
  View<T> y, x;
  View<Arithmetic<T>> factors;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const T* from = x.row(i);
    T* to = y.row(i);
    const Arithmetic<T> factor = *factors.row(i);
    team.each(y.cols, [&](std::int64_t j) { to[j] = from[j] * factor; });
  }
};
template <class T>
struct DotRow {
  using A = Arithmetic<T>;
  View<A> dots;
  View<T> a, b;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const T *ai = a.row(i), *bi = b.row(i);
    const A sum = team.sum(a.cols, [&](std::int64_t j) { return A(ai[j]) * A(bi[j]); });
    if (team.first()) *dots.row(i) = sum;
  }
};

template <class T>
struct CrossEntropyRow {
  using A = Arithmetic<T>;
  View<A> loss;
  View<T> probabilities, logits;
  View<std::int32_t> targets;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const T* x = logits.row(i);
    T* p = probabilities.row(i);
    const auto own = team.hold(x, logits.cols);
    auto powers = team.room(p);
    const Exponentials<T> e(team, powers, own, logits.cols, A(1));
    team.each(logits.cols, [&](auto j) { p[j] = powers[j] / e.sum; });
    if (!team.first()) return;
    const std::int32_t target = targets.data[i];
    const bool known = 0 <= target && target < logits.cols;  // other targets have no probability
    *loss.row(i) = known ? std::log(e.sum) - (x[target] - e.largest) : A(NAN);
  }
};

/// The same in three steps, for logits whose columns are cut. The ranks reduce between the steps.
template <class T>
struct LargestRow {
  using A = Arithmetic<T>;
  View<A> largest;
  View<T> x;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const T* xi = x.row(i);
    const A most = team.largest(x.cols, [&](std::int64_t j) { return A(xi[j]); });
    if (team.first()) *largest.row(i) = most;
  }
};
template <class T>
struct CrossEntropyTermsRow {
  using A = Arithmetic<T>;
  View<T> exponentials;
  View<A> sum, target;
  View<T> logits;
  View<A> largest;
  View<std::int32_t> targets;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const T* x = logits.row(i);
    T* p = exponentials.row(i);
    const A most = *largest.row(i);
    const A total = team.sum(logits.cols, [&](std::int64_t j) { return A(p[j] = exponential(x[j] - most)); });
    if (!team.first()) return;
    const std::int32_t at = targets.data[i];
    *sum.row(i) = total;
    *target.row(i) = 0 <= at && at < logits.cols ? x[at] - most : A(0);
  }
};
template <class T>
struct CrossEntropyOfRow {
  using A = Arithmetic<T>;
  View<A> loss;
  View<T> exponentials;
  View<A> sum, target;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    T* p = exponentials.row(i);
    const A total = *sum.row(i);
    team.each(exponentials.cols, [&](std::int64_t j) { p[j] = p[j] / total; });
    if (team.first()) *loss.row(i) = std::log(total) - *target.row(i);
  }
};

template <class T>
struct CrossEntropyBackwardRow {
  View<T> dlogits, probabilities;
  View<std::int32_t> targets;
  double factor;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const T* p = probabilities.row(i);
    T* dx = dlogits.row(i);
    const std::int64_t target = targets.data[i];
    using A = Arithmetic<T>;
    team.each(dlogits.cols,
              [&](std::int64_t j) { dx[j] = A(factor) * (p[j] - (j == target ? A(1) : A(0))); });
  }
};

template <class T>
struct LayerNormRow {
  using A = Arithmetic<T>;
  View<T> y;
  View<A> mean, inverse_deviation;
  View<T> x, gamma, beta;
  double epsilon;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const auto xi = team.hold(x.row(i), x.cols);
    T* yi = y.row(i);
    const A n = A(x.cols), m = team.sum(x.cols, [&](auto j) { return A(xi[j]); }) / n;
    const A variance = team.sum(x.cols, [&](auto j) { return (xi[j] - m) * (xi[j] - m); }) / n;
    const A inverse = 1 / std::sqrt(variance + A(epsilon));
    team.each(x.cols, [&](auto j) { yi[j] = (xi[j] - m) * inverse * gamma.data[j] + beta.data[j]; });
    if (!team.first()) return;
    *mean.row(i) = m;
    *inverse_deviation.row(i) = inverse;
  }
};

/// With xhat = (x - mean) / deviation and dxhat = dy gamma, as notebooks_md/05_block.md derives it:
/// dx = (dxhat - mean(dxhat) - xhat mean(dxhat xhat)) / deviation.
template <class T>
struct LayerNormBackwardRow {
  using A = Arithmetic<T>;
  View<T> dx, dy, x;
  View<A> mean, inverse_deviation;
  View<T> gamma;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const auto xi = team.hold(x.row(i), x.cols), gi = team.hold(dy.row(i), x.cols);
    const T* weight = gamma.data;
    T* out = dx.row(i);
    const A m = *mean.row(i), inverse = *inverse_deviation.row(i), n = A(x.cols);
    const A g = team.sum(x.cols, [&](auto j) { return gi[j] * weight[j]; }) / n;
    const A gh = team.sum(x.cols, [&](auto j) { return gi[j] * weight[j] * ((xi[j] - m) * inverse); }) / n;
    team.each(x.cols,
              [&](auto j) { out[j] = inverse * (gi[j] * weight[j] - g - (xi[j] - m) * inverse * gh); });
  }
};

/// A term of the sums over rows: x, and dy xhat for the gradient of gamma.
template <class T>
struct Term {
  View<T> x;
  TESSERA_BOTH Arithmetic<T> operator()(std::int64_t i, std::int64_t j) const { return x.row(i)[j]; }
};
template <class T>
struct GammaTerm {
  View<T> dy, x;
  View<Arithmetic<T>> mean, inverse_deviation;
  TESSERA_BOTH Arithmetic<T> operator()(std::int64_t i, std::int64_t j) const {
    return dy.row(i)[j] * ((x.row(i)[j] - *mean.row(i)) * *inverse_deviation.row(i));
  }
};

/// dx = factor p (dp - sum_k dp_k p_k); dx may be dp.
template <class T>
struct SoftmaxBackwardRow {
  View<T> dx, dp, p;
  double factor;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const auto g = team.hold(dp.row(i), p.cols), pi = team.hold(p.row(i), p.cols);
    T* out = dx.row(i);
    using A = Arithmetic<T>;
    const A sum = team.sum(p.cols, [&](auto j) { return g[j] * pi[j]; });
    team.each(p.cols, [&](auto j) { out[j] = A(factor) * pi[j] * (g[j] - sum); });
  }
};

template <class T>
struct DropoutRow {
  View<T> y, x;
  Dropout dropout;
  TESSERA_KERNEL void operator()(const auto& team, std::int64_t i) const {
    const T* from = x.row(i);
    T* to = y.row(i);
    const std::uint64_t first = dropout.index(i);
    team.each(y.cols, [&](std::int64_t j) { to[j] = from[j] * dropout.factor<Arithmetic<T>>(first, j); });
  }
};

}  // namespace tessera
