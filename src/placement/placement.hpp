// A placement says where a tensor's elements are on one axis of ranks, and it is a type: a program that would
// add up the wrong thing does not compile. Two axes: tensor parallel (tp) and data parallel (dp). A pipeline
// is no placement, its stages own other tensors. Here are the types; placed_ops.hpp, which everybody
// includes, has the rules.
#pragma once

#include <type_traits>
#include <utility>

#include "ops/ops.hpp"

namespace tessera {

struct Replicated {};  ///< Every rank holds the whole.
template <int Dim>
struct Shard {  ///< Rank i holds part i of the rows (0: tokens) or of the columns (1: features).
  static_assert(Dim == 0 || Dim == 1, "Shard<0> cuts rows, Shard<1> cuts columns");
};
struct Partial {};  ///< Every rank holds a full-size term; the tensor is their sum.
/// What comes out of a call that does not compile. Every function takes it, so that one mistake is told once.
struct Mistaken {};

template <class A, class B>
inline constexpr bool is = std::is_same_v<A, B>;
/// The placements are equal, or one of them has been complained about already.
template <class A, class B>
inline constexpr bool agree = is<A, B> || is<A, Mistaken> || is<B, Mistaken>;

/// What a matrix is when it is read as its transpose: rows and columns change places.
template <class P>
using transposed =
    std::conditional_t<is<P, Shard<0>>, Shard<1>, std::conditional_t<is<P, Shard<1>>, Shard<0>, P>>;

/// A tensor and its placement on both axes. `local` is what this rank holds.
template <class Tp, class Dp = Replicated>
class Placed {
 public:
  using tp = Tp;
  using dp = Dp;
  Placed() = default;  ///< Nothing yet: a field of a layer's Saved.
  /// The caller's word that `local` is this rank's part: nothing can check it here.
  explicit Placed(Tensor local) : local_(std::move(local)) {}
  /// From another placement: does not compile, and says which collective is missing.
  /// Defined in placed_ops.hpp.
  template <class Tq, class Dq>
  Placed(const Placed<Tq, Dq>& other);
  const Tensor& local() const { return local_; }
  const Tensor& operand() const { return local_; }

 private:
  Tensor local_;
};

/// t(a): a read as its transpose, for matmul. Tp and Dp are the placements of the transpose.
template <class Tp, class Dp>
class PlacedTransposed {
 public:
  using tp = Tp;
  using dp = Dp;
  explicit PlacedTransposed(Tensor of) : of_(std::move(of)) {}
  Transposed operand() const { return {of_}; }

 private:
  Tensor of_;
};

template <class Tp, class Dp>
PlacedTransposed<transposed<Tp>, transposed<Dp>> t(const Placed<Tp, Dp>& a) {
  return PlacedTransposed<transposed<Tp>, transposed<Dp>>(a.local());
}

/// Zeros placed as x is, booked as gradients: what a layer's backward_weight adds to.
template <class Tp, class Dp>
Placed<Tp, Dp> zero_gradient(const Placed<Tp, Dp>& x) {
  return Placed<Tp, Dp>(zero_gradient(x.local()));
}

}  // namespace tessera
