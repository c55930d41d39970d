// The algebra: the placement of each function's result follows from the placements of its arguments. The
// rules hold on each axis separately. A rule is a static_assert in the body of the function itself, so that a
// mistake takes 8 lines of the compiler's output at most.
#pragma once

#include "comm/communicator.hpp"
#include "placement/placement.hpp"
#include "tensor/slice.hpp"

namespace tessera {

/// Neither axis is a Partial.
template <class Tp, class Dp>
inline constexpr bool no_partial = !is<Tp, Partial> && !is<Dp, Partial>;
/// Neither axis cuts the columns, and neither is a Partial: rows are whole.
template <class Tp, class Dp>
inline constexpr bool rows_whole = no_partial<Tp, Dp> && !is<Tp, Shard<1>> && !is<Dp, Shard<1>>;
/// Both axes agree.
template <class Tp, class Dp, class Tq, class Dq>
inline constexpr bool alike = agree<Tp, Tq>&& agree<Dp, Dq>;
/// Placed<Tp, Dp> where the call is allowed.
template <bool Allowed, class Tp, class Dp>
using Checked = std::conditional_t<Allowed, Placed<Tp, Dp>, Placed<Mistaken, Mistaken>>;

// clang-format off
template <class Tp, class Dp>
template <class Tq, class Dq>
Placed<Tp, Dp>::Placed(const Placed<Tq, Dq>& other) : local_(other.local()) {
  constexpr bool owed = (is<Tq, Partial> && !agree<Tp, Tq>) || (is<Dq, Partial> && !agree<Dp, Dq>);
  static_assert(!owed, "Partial is given where another placement is wanted: the sum is still owed. all_reduce or reduce_scatter it.");
  static_assert(owed || alike<Tp, Dp, Tq, Dq>, "another placement is given than is wanted. all_gather makes a Shard Replicated, take_shard the reverse.");
}
// clang-format on

// clang-format off
// Y = L R on one axis: the four block-matrix identities. No other pair of placements has a product.
template <class L, class R> struct Product { using type = Mistaken; };
template <> struct Product<Replicated, Replicated> { using type = Replicated; };  // X A
template <> struct Product<Replicated, Shard<1>> { using type = Shard<1>; };      // X [A1 A2] = [X A1, X A2]
template <> struct Product<Shard<0>, Replicated> { using type = Shard<0>; };      // [X1; X2] A = [X1 A; X2 A]
template <> struct Product<Shard<1>, Shard<0>> { using type = Partial; };         // [X1 X2] [A1; A2] = X1 A1 + X2 A2
template <class L, class R> using product = typename Product<L, R>::type;
// clang-format on

/// True unless L and R are the placements `l` and `r` on one of the axes.
template <class L, class R, class l, class r>
inline constexpr bool avoids =
    !(is<typename L::tp, l> && is<typename R::tp, r>)&&!(is<typename L::dp, l> && is<typename R::dp, r>);

/// The product of two placed matrices, of which one may be t(...). A pair outside of the four rules does not
/// compile.
template <class L, class R>
requires requires(const L& l, const R& r) { l.operand(), r.operand(); }
auto matmul(const L& left, const R& right) {
  // clang-format off
  static_assert(avoids<L, R, Shard<1>, Replicated>, "matmul(Shard<1>, Replicated): the left is cut by columns, the right is not cut by rows. all_gather the left, or cut the right by rows.");
  static_assert(avoids<L, R, Replicated, Shard<0>>, "matmul(Replicated, Shard<0>): the right is cut by rows, the left is not cut by columns. take_shard the left's columns, or all_gather the right.");
  static_assert(avoids<L, R, Shard<1>, Shard<1>>, "matmul(Shard<1>, Shard<1>): the left is cut by columns, the right not by rows. all_gather the left, or cut the right by rows.");
  static_assert(avoids<L, R, Shard<0>, Shard<0>>, "matmul(Shard<0>, Shard<0>): the right is cut by rows, the left not by columns. all_gather the right, or cut the left by columns.");
  static_assert(avoids<L, R, Shard<0>, Shard<1>>, "matmul(Shard<0>, Shard<1>): a rank would hold one block of a grid, no rows and no columns. all_gather one of them.");
  static_assert(avoids<L, R, Partial, Replicated>, "matmul(Partial, Replicated): the left is a term of a sum. all_reduce it first.");
  static_assert(avoids<L, R, Partial, Shard<0>>, "matmul(Partial, Shard<0>): the left is a term of a sum. reduce_scatter its columns first.");
  static_assert(avoids<L, R, Partial, Shard<1>>, "matmul(Partial, Shard<1>): the left is a term of a sum. all_reduce it first.");
  static_assert(avoids<L, R, Replicated, Partial>, "matmul(Replicated, Partial): the right is a term of a sum. all_reduce it first.");
  static_assert(avoids<L, R, Shard<0>, Partial>, "matmul(Shard<0>, Partial): the right is a term of a sum. all_reduce it first.");
  static_assert(avoids<L, R, Shard<1>, Partial>, "matmul(Shard<1>, Partial): the right is a term of a sum. reduce_scatter its rows first.");
  static_assert(avoids<L, R, Partial, Partial>, "matmul(Partial, Partial): a product of sums is not the sum of the products. all_reduce both first.");
  // clang-format on
  return Placed<product<typename L::tp, typename R::tp>, product<typename L::dp, typename R::dp>>(
      matmul(left.operand(), right.operand()));
}

// clang-format off
/// sum += left right, for the gradients of several microbatches. The product must be placed as the sum is.
template <class Tp, class Dp, class L, class R>
void add_matmul(const Placed<Tp, Dp>& sum, const L& left, const R& right) {
  using tp = product<typename L::tp, typename R::tp>;
  using dp = product<typename L::dp, typename R::dp>;
  static_assert(!is<tp, Mistaken> && !is<dp, Mistaken>, "add_matmul: these two have no product. matmul(left, right) alone says why.");
  static_assert(alike<Tp, Dp, tp, dp>, "add_matmul: the sum is placed otherwise than the product. Declare it as the product is placed, and make one of the other by a collective at the end.");
  add_matmul(sum.local(), left.operand(), right.operand());
}

// Element-wise functions that are not linear: they work on shards, and not on the terms of a sum.
template <class Tp, class Dp>
auto gelu(const Placed<Tp, Dp>& x) {
  static_assert(no_partial<Tp, Dp>, "gelu(Partial): gelu(a + b) is not gelu(a) + gelu(b). all_reduce first.");
  return Checked<no_partial<Tp, Dp>, Tp, Dp>(gelu(x.local()));
}
template <class Tp, class Dp>
auto relu(const Placed<Tp, Dp>& x) {
  static_assert(no_partial<Tp, Dp>, "relu(Partial): relu(a + b) is not relu(a) + relu(b). all_reduce first.");
  return Checked<no_partial<Tp, Dp>, Tp, Dp>(relu(x.local()));
}
template <class Tp, class Dp, class Tq, class Dq>
auto gelu_backward(const Placed<Tp, Dp>& dy, const Placed<Tq, Dq>& x) {
  constexpr bool whole = no_partial<Tp, Dp> && no_partial<Tq, Dq>, same = alike<Tp, Dp, Tq, Dq>;
  static_assert(whole, "gelu_backward(Partial): the slope at a term is not the slope at the sum. all_reduce first.");
  static_assert(!whole || same, "gelu_backward: dy and x are cut differently. all_gather or take_shard one of them.");
  return Checked<whole && same, Tp, Dp>(gelu_backward(dy.local(), x.local()));
}
template <class Tp, class Dp, class Tq, class Dq>
auto relu_backward(const Placed<Tp, Dp>& dy, const Placed<Tq, Dq>& x) {
  constexpr bool whole = no_partial<Tp, Dp> && no_partial<Tq, Dq>, same = alike<Tp, Dp, Tq, Dq>;
  static_assert(whole, "relu_backward(Partial): the slope at a term is not the slope at the sum. all_reduce first.");
  static_assert(!whole || same, "relu_backward: dy and x are cut differently. all_gather or take_shard one of them.");
  return Checked<whole && same, Tp, Dp>(relu_backward(dy.local(), x.local()));
}

// Linear functions: they work on the terms of a sum as well.
template <class Tp, class Dp, class Tq, class Dq>
auto add(const Placed<Tp, Dp>& a, const Placed<Tq, Dq>& b) {
  constexpr bool same = alike<Tp, Dp, Tq, Dq>, whole = no_partial<Tp, Dp> && no_partial<Tq, Dq>;
  static_assert(same || whole, "add(Partial, not Partial): the sum would count the second p times. all_reduce the Partial first.");
  static_assert(same || !whole, "add: the two sides are cut differently. all_gather or take_shard one of them.");
  return Checked<same, Tp, Dp>(add(a.local(), b.local()));
}
template <class Tp, class Dp>
auto scale(const Placed<Tp, Dp>& x, double factor) {
  return Placed<Tp, Dp>(scale(x.local(), factor));
}

/// The placement that a (1, F) row must have, so that it can be added to the rows of x: it is cut where the columns of x
/// are, and whole otherwise.
template <class P>
using row_for = std::conditional_t<is<P, Shard<1>> || is<P, Mistaken>, P, Replicated>;

template <class Tp, class Dp, class Tq, class Dq>
auto add_bias(const Placed<Tp, Dp>& x, const Placed<Tq, Dq>& c) {
  constexpr bool whole = no_partial<Tp, Dp>, fits = alike<row_for<Tp>, row_for<Dp>, Tq, Dq>;
  static_assert(whole, "add_bias(Partial): every rank would add the bias, and the sum would count it p times. all_reduce first.");
  static_assert(!whole || fits, "add_bias: the bias is not cut as the columns of x are. It is Shard<1> where x is Shard<1>, Replicated otherwise.");
  return Checked<whole && fits, Tp, Dp>(add_bias(x.local(), c.local()));
}

/// The placement of the sum over tokens. Where the tokens are cut, each rank has a term of the sum.
template <class P>
using summed_rows = std::conditional_t<is<P, Shard<0>>, Partial, P>;

template <class Tp, class Dp>
auto sum_rows(const Placed<Tp, Dp>& x) {
  return Placed<summed_rows<Tp>, summed_rows<Dp>>(sum_rows(x.local()));
}

template <class Tp, class Dp, class Tq, class Dq>
void add_sum_rows(const Placed<Tq, Dq>& sum, const Placed<Tp, Dp>& x) {
  static_assert(alike<Tq, Dq, summed_rows<Tp>, summed_rows<Dp>>, "add_sum_rows: the sum is placed otherwise than sum_rows(x). It is Partial where x is Shard<0>, as x is otherwise.");
  add_sum_rows(sum.local(), x.local());
}

/// ids (N, 1) are Replicated or Shard<0>, and the table is Replicated or cut by features: these are the rules
/// of matmul(onehot, table).
template <class Tp, class Dp, class Tq, class Dq>
auto embedding(const Placed<Tp, Dp>& ids, const Placed<Tq, Dq>& table) {
  static_assert(rows_whole<Tp, Dp>, "embedding: ids are Replicated or Shard<0>. all_gather or all_reduce them.");
  static_assert(no_partial<Tq, Dq> && !is<Tq, Shard<0>> && !is<Dq, Shard<0>>, "embedding: a table cut by rows lacks ids on every rank. all_gather it, or cut it by columns.");
  static_assert(avoids<Placed<Tp, Dp>, Placed<Tq, Dq>, Shard<0>, Shard<1>>, "embedding(Shard<0>, Shard<1>): a rank would hold one block of a grid, no rows and no columns. all_gather one of them.");
  return Placed<product<Tp, Tq>, product<Dp, Dq>>(embedding(ids.local(), table.local()));
}

/// A softmax compares the elements of a row with each other, so the rank must hold whole rows.
template <class Tp, class Dp, class Tq, class Dq>
CrossEntropy cross_entropy(const Placed<Tp, Dp>& logits, const Placed<Tq, Dq>& targets) {
  static_assert(rows_whole<Tp, Dp>, "cross_entropy: a softmax needs whole rows. all_gather a Shard<1>, all_reduce a Partial first.");
  static_assert(!rows_whole<Tp, Dp> || alike<Tp, Dp, Tq, Dq>, "cross_entropy: the targets are not cut as the logits are. take_shard<0> or all_gather one of them.");
  return cross_entropy(logits.local(), targets.local());
}

/// The mean and the deviation of a row need the whole row.
template <class Tp, class Dp, class Tq, class Dq>
auto layer_norm(const Placed<Tp, Dp>& x, const Placed<Tq, Dq>& gamma, const Placed<Tq, Dq>& beta, LayerNorm& saved, double epsilon = 1e-5) {
  constexpr bool rows = rows_whole<Tp, Dp>, fits = alike<Tq, Dq, Replicated, Replicated>;
  static_assert(rows, "layer_norm: a row's mean needs the whole row. all_gather a Shard<1>, all_reduce a Partial first.");
  static_assert(!rows || fits, "layer_norm: gamma and beta are Replicated, as every rank's rows are whole. all_gather them.");
  saved = layer_norm(x.local(), gamma.local(), beta.local(), epsilon);
  return Checked<rows && fits, Tp, Dp>(saved.y);
}
template <class Tp, class Dp, class Tq, class Dq>
auto layer_norm_backward(const Placed<Tp, Dp>& dy, const LayerNorm& saved, const Placed<Tq, Dq>& gamma) {
  constexpr bool rows = rows_whole<Tp, Dp>, fits = alike<Tq, Dq, Replicated, Replicated>;
  static_assert(rows, "layer_norm_backward: a row's gradient needs the whole row. all_gather a Shard<1>, all_reduce a Partial first.");
  static_assert(!rows || fits, "layer_norm_backward: gamma is Replicated, as every rank's rows are whole. all_gather it.");
  return Checked<rows && fits, Tp, Dp>(layer_norm_backward(dy.local(), saved, gamma.local()));
}
template <class Tp, class Dp, class Tq, class Dq>
void add_layer_norm_weights(const Placed<Tq, Dq>& dgamma, const Placed<Tq, Dq>& dbeta, const Placed<Tp, Dp>& dy, const LayerNorm& saved) {
  static_assert(alike<Tq, Dq, summed_rows<Tp>, summed_rows<Dp>>, "add_layer_norm_weights: the gradients are placed otherwise than sum_rows(dy). They are Partial where dy is Shard<0>, as dy is otherwise.");
  add_layer_norm_weights(dgamma.local(), dbeta.local(), dy.local(), saved);
}

/// The part of a whole (rows, cols) matrix that this rank holds under placement P.
template <class P>
Slice slice_of(std::int64_t rows, std::int64_t cols, const Communicator& comm) {
  static_assert(!is<P, Partial>, "slice_of(Partial): a term of a sum is no part of the whole. Reduce it, and ask for what it becomes.");
  if constexpr (is<P, Shard<0>>) return Slice::rows(rows, cols, comm.rank(), comm.size());
  if constexpr (is<P, Shard<1>>) return Slice::columns(rows, cols, comm.rank(), comm.size());
  return Slice::whole(rows, cols);
}

/// One axis of ranks with its collectives, which are the only way from one placement to another. A collective changes
/// the placement on its own axis only.
template <int Number>
class Axis {
 public:
  explicit Axis(Communicator& comm) : comm_(comm) {}
  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }
  Communicator& comm() const { return comm_; }

  /// Partial -> Replicated: every rank gets the sum.
  template <class Tp, class Dp>
  auto all_reduce(const Placed<Tp, Dp>& x) const {
    static_assert(!is<on<Tp, Dp>, Replicated>, "all_reduce(Replicated): every rank has the whole on this axis. The sum of p copies is p times too large: leave it out.");
    static_assert(is<on<Tp, Dp>, Replicated> || agree<on<Tp, Dp>, Partial>, "all_reduce(Shard): on this axis the ranks hold parts, not terms of a sum. all_gather puts them together.");
    return replace<Replicated, Tp, Dp>(comm_.all_reduce(x.local()));
  }
  /// Partial -> Shard<Dim>: every rank gets its own part of the sum.
  template <int Dim, class Tp, class Dp>
  auto reduce_scatter(const Placed<Tp, Dp>& x) const {
    static_assert(agree<on<Tp, Dp>, Partial>, "reduce_scatter: not a Partial on this axis, there is no sum to take. take_shard cuts a Replicated.");
    return replace<Shard<Dim>, Tp, Dp>(comm_.reduce_scatter(x.local(), Dim));
  }
  /// Shard<d> -> Replicated: every rank gets all parts.
  template <class Tp, class Dp>
  auto all_gather(const Placed<Tp, Dp>& x) const {
    using From = on<Tp, Dp>;
    static_assert(!is<From, Partial>, "all_gather(Partial): on this axis the ranks hold terms of a sum, not parts. all_reduce adds them.");
    static_assert(!is<From, Replicated>, "all_gather(Replicated): every rank has the whole on this axis. Leave it out.");
    return replace<Replicated, Tp, Dp>(comm_.all_gather(x.local(), is<From, Shard<1>> ? 1 : 0));
  }
  /// Replicated -> Shard<Dim>: every rank keeps its own part, and nothing is sent.
  template <int Dim, class Tp, class Dp>
  auto take_shard(const Placed<Tp, Dp>& x) const {
    static_assert(!is<on<Tp, Dp>, Partial>, "take_shard(Partial): on this axis x is a term of a sum. reduce_scatter adds and cuts.");
    static_assert(is<on<Tp, Dp>, Partial> || agree<on<Tp, Dp>, Replicated>, "take_shard(Shard): x is cut on this axis already. To cut it otherwise, all_gather it first.");
    return replace<Shard<Dim>, Tp, Dp>(comm_.take_shard(x.local(), Dim));
  }

 private:
  template <class Tp, class Dp>
  using on = std::conditional_t<Number == 0, Tp, Dp>;
  template <class New, class Tp, class Dp>
  static auto replace(Tensor local) {
    return Placed<std::conditional_t<Number == 0, New, Tp>, std::conditional_t<Number == 1, New, Dp>>(std::move(local));
  }
  Communicator& comm_;
};
// clang-format on

using TensorParallel = Axis<0>;
using DataParallel = Axis<1>;

}  // namespace tessera
