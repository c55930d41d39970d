// The algebra: what each function makes of the placements it gets. The rules hold for each axis by itself.
#pragma once

#include "placement/placement.hpp"

namespace tessera {

// Y = L R, one axis:
//   Replicated  Replicated  ->  Replicated   X A
//   Replicated  Shard<1>    ->  Shard<1>     X [A1 A2] = [X A1, X A2]
//   Shard<0>    Replicated  ->  Shard<0>     [X1; X2] A = [X1 A; X2 A]
//   Shard<1>    Shard<0>    ->  Partial      [X1 X2] [A1; A2] = X1 A1 + X2 A2
template <class L, class R>
using product =
    std::conditional_t<is<L, Shard<1>> && is<R, Shard<0>>, Partial,
                       std::conditional_t<is<L, Shard<0>> && is<R, Replicated>, Shard<0>,
                                          std::conditional_t<is<R, Shard<1>>, Shard<1>, Replicated>>>;

/// True unless L and R are the placements `l` and `r` on one of the axes.
template <class L, class R, class l, class r>
inline constexpr bool avoids =
    !(is<typename L::tp, l> && is<typename R::tp, r>)&&!(is<typename L::dp, l> && is<typename R::dp, r>);

/// The product of two placed matrices, either of them t(...). A pair outside of the four rules does not
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

/// sum += l r, for gradients of several microbatches: the product must be placed as the sum is.
template <class Tp, class Dp, class L, class R>
void add_matmul(const Placed<Tp, Dp>& sum, const L& left, const R& right) {
  static_assert(is<decltype(matmul(left, right)), Placed<Tp, Dp>>,
                "add_matmul: the sum is cut otherwise than the product.");
  add_matmul(sum.local(), left.operand(), right.operand());
}

/// Neither axis is a Partial.
template <class Tp, class Dp>
inline constexpr bool no_partial = !is<Tp, Partial> && !is<Dp, Partial>;
/// Neither axis cuts the columns, and neither is a Partial: rows are whole.
template <class Tp, class Dp>
inline constexpr bool rows_whole = no_partial<Tp, Dp> && !is<Tp, Shard<1>> && !is<Dp, Shard<1>>;

// Element-wise, not linear: the shards may stay apart, the terms of a sum may not.
template <class Tp, class Dp>
auto gelu(const Placed<Tp, Dp>& x) {
  static_assert(no_partial<Tp, Dp>, "gelu(Partial): gelu(a + b) is not gelu(a) + gelu(b). all_reduce first.");
  return Placed<Tp, Dp>(gelu(x.local()));
}
template <class Tp, class Dp>
auto relu(const Placed<Tp, Dp>& x) {
  static_assert(no_partial<Tp, Dp>, "relu(Partial): relu(a + b) is not relu(a) + relu(b). all_reduce first.");
  return Placed<Tp, Dp>(relu(x.local()));
}
template <class Tp, class Dp, class Tq, class Dq>
auto gelu_backward(const Placed<Tp, Dp>& dy, const Placed<Tq, Dq>& x) {
  static_assert(no_partial<Tp, Dp> && no_partial<Tq, Dq>, "gelu_backward(Partial): all_reduce first.");
  static_assert(is<Tp, Tq> && is<Dp, Dq>, "gelu_backward: dy and x are cut differently.");
  return Placed<Tp, Dp>(gelu_backward(dy.local(), x.local()));
}
template <class Tp, class Dp, class Tq, class Dq>
auto relu_backward(const Placed<Tp, Dp>& dy, const Placed<Tq, Dq>& x) {
  static_assert(no_partial<Tp, Dp> && no_partial<Tq, Dq>, "relu_backward(Partial): all_reduce first.");
  static_assert(is<Tp, Tq> && is<Dp, Dq>, "relu_backward: dy and x are cut differently.");
  return Placed<Tp, Dp>(relu_backward(dy.local(), x.local()));
}

// Linear: sums of sums are sums.
template <class Tp, class Dp, class Tq, class Dq>
auto add(const Placed<Tp, Dp>& a, const Placed<Tq, Dq>& b) {
  static_assert(
      (is<Tp, Tq> && is<Dp, Dq>) || (no_partial<Tp, Dp> && no_partial<Tq, Dq>),
      "add(Partial, not Partial): the sum would count the second p times. all_reduce the Partial first.");
  static_assert((is<Tp, Tq> && is<Dp, Dq>) || !no_partial<Tp, Dp> || !no_partial<Tq, Dq>,
                "add: the two sides are cut differently. all_gather or take_shard one of them.");
  return Placed<Tp, Dp>(add(a.local(), b.local()));
}
template <class Tp, class Dp>
auto scale(const Placed<Tp, Dp>& x, double factor) {
  return Placed<Tp, Dp>(scale(x.local(), factor));
}

/// The placement that a (1, F) row must have to be added to the rows of x: cut with the columns, whole
/// otherwise.
template <class P>
using row_for = std::conditional_t<is<P, Shard<1>>, Shard<1>, Replicated>;

template <class Tp, class Dp, class Tq, class Dq>
auto add_bias(const Placed<Tp, Dp>& x, const Placed<Tq, Dq>& c) {
  static_assert(no_partial<Tp, Dp>,
                "add_bias(Partial): every rank would add the bias, and the sum would count it p times. "
                "all_reduce first.");
  static_assert(
      !no_partial<Tp, Dp> || (is<Tq, row_for<Tp>> && is<Dq, row_for<Dp>>),
      "add_bias: the bias is cut as the columns of x are: Shard<1> with Shard<1>, Replicated otherwise.");
  return Placed<Tp, Dp>(add_bias(x.local(), c.local()));
}

/// The sum over tokens. Where the tokens are cut, each rank has a term of it.
template <class P>
using summed_rows = std::conditional_t<is<P, Shard<0>>, Partial, P>;

template <class Tp, class Dp>
auto sum_rows(const Placed<Tp, Dp>& x) {
  return Placed<summed_rows<Tp>, summed_rows<Dp>>(sum_rows(x.local()));
}

template <class Tp, class Dp, class Tq, class Dq>
void add_sum_rows(const Placed<Tq, Dq>& sum, const Placed<Tp, Dp>& x) {
  static_assert(is<Tq, summed_rows<Tp>> && is<Dq, summed_rows<Dp>>,
                "add_sum_rows: the sum is cut otherwise than x.");
  add_sum_rows(sum.local(), x.local());
}

/// ids (N, 1) are Replicated or Shard<0>, the table Replicated or cut by features: the rules of
/// matmul(onehot, table).
template <class Tp, class Dp, class Tq, class Dq>
auto embedding(const Placed<Tp, Dp>& ids, const Placed<Tq, Dq>& table) {
  static_assert(rows_whole<Tp, Dp>, "embedding: ids are Replicated or Shard<0>.");
  static_assert(
      no_partial<Tq, Dq> && !is<Tq, Shard<0>> && !is<Dq, Shard<0>>,
      "embedding: a table cut by rows lacks ids on every rank, see the vocabulary-parallel embedding.");
  return Placed<product<Tp, Tq>, product<Dp, Dq>>(embedding(ids.local(), table.local()));
}

/// A row is compared with itself: its columns must be together.
template <class Tp, class Dp>
CrossEntropy cross_entropy(const Placed<Tp, Dp>& logits, const Placed<Tp, Dp>& targets) {
  static_assert(rows_whole<Tp, Dp>,
                "cross_entropy: a softmax needs whole rows. all_gather the columns first.");
  return cross_entropy(logits.local(), targets.local());
}

}  // namespace tessera
