// A placement says where the elements of a tensor are on one axis of ranks; PyTorch's DTensor has the same
// three, Replicate, Shard and Partial. Here a placement is a type, so that a program that would add up the
// wrong tensors does not compile. There are two axes: tensor parallel (tp) and data parallel (dp). A pipeline
// is not a placement: its stages own different tensors. This file has the types; placed_ops.hpp has the
// rules, and is the file to include.
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
struct Partial {};  ///< Every rank holds a term of the full size; the tensor is the sum of the terms.
/// The placement of the result of a call that does not compile. Every function accepts it, so that the
/// compiler reports a mistake only once.
struct Mistaken {};

template <class A, class B>
inline constexpr bool is = std::is_same_v<A, B>;
/// The placements are equal, or one of them comes from a mistake that has been reported.
template <class A, class B>
inline constexpr bool agree = is<A, B> || is<A, Mistaken> || is<B, Mistaken>;

/// The placement of the transpose: rows and columns change places.
template <class P>
using transposed =
    std::conditional_t<is<P, Shard<0>>, Shard<1>, std::conditional_t<is<P, Shard<1>>, Shard<0>, P>>;

/// A tensor and its placement on both axes. `local` is the part or the term that this rank holds.
template <class Tp, class Dp = Replicated>
class Placed {
 public:
  using tp = Tp;
  using dp = Dp;
  Placed() = default;  ///< Empty, for the fields of a layer's Saved.
  /// The caller must know that `local` is this rank's part: nothing can check it here.
  explicit Placed(Tensor local) : local_(std::move(local)) {}
  /// A conversion from another placement does not compile, and the message names the missing collective.
  /// Defined in placed_ops.hpp.
  template <class Tq, class Dq>
  Placed(const Placed<Tq, Dq>& other);
  const Tensor& local() const { return local_; }
  const Tensor& operand() const { return local_; }

 private:
  Tensor local_;
};

/// t(a), the transpose of a, for matmul; nothing is copied. Tp and Dp are the placements of the transpose.
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

/// Zeros with the shape and the placement of x, to which backward_weight adds. They count as gradients in the
/// ledger of memory.
template <class Tp, class Dp>
Placed<Tp, Dp> zero_gradient(const Placed<Tp, Dp>& x) {
  return Placed<Tp, Dp>(zero_gradient(x.local()));
}

}  // namespace tessera
