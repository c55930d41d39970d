// A placement says where a tensor's elements are on one axis of ranks, and it is a type: a program that would
// add up the wrong thing does not compile. Two axes: tensor parallel (tp) and data parallel (dp). A pipeline
// is no placement, its stages own other tensors.
#pragma once

#include <type_traits>
#include <utility>

#include "comm/communicator.hpp"
#include "ops/ops.hpp"
#include "tensor/slice.hpp"

namespace tessera {

struct Replicated {};  ///< Every rank holds the whole.
template <int Dim>
struct Shard {  ///< Rank i holds part i of the rows (0: tokens) or of the columns (1: features).
  static_assert(Dim == 0 || Dim == 1, "Shard<0> cuts rows, Shard<1> cuts columns");
};
struct Partial {};  ///< Every rank holds a full-size term; the tensor is their sum.

template <class A, class B>
inline constexpr bool is = std::is_same_v<A, B>;

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
  const MemoryScope scope(MemoryKind::gradient);
  return Placed<Tp, Dp>(Tensor::zeros(x.local().rows(), x.local().cols(), x.local().dtype()));
}

/// The part of a (rows, cols) whole that this rank holds under placement P.
template <class P>
Slice slice_of(std::int64_t rows, std::int64_t cols, const Communicator& comm) {
  static_assert(!is<P, Partial>, "slice_of(Partial): a term of a sum is no part of the whole");
  if constexpr (is<P, Shard<0>>) return Slice::rows(rows, cols, comm.rank(), comm.size());
  if constexpr (is<P, Shard<1>>) return Slice::columns(rows, cols, comm.rank(), comm.size());
  return Slice::whole(rows, cols);
}

/// One axis of ranks with its collectives: the only way from one placement to another. Each changes the
/// placement of its own axis alone.
template <int Number>
class Axis {
 public:
  explicit Axis(Communicator& comm) : comm_(comm) {}
  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }
  Communicator& comm() const { return comm_; }

  /// Partial -> Replicated: the sum, on every rank.
  template <class Tp, class Dp>
  auto all_reduce(const Placed<Tp, Dp>& x) const {
    static_assert(is<on<Tp, Dp>, Partial>,
                  "all_reduce: not a Partial on this axis. The sum of p whole copies is p times too large.");
    return replace<Replicated, Tp, Dp>(comm_.all_reduce(x.local()));
  }
  /// Partial -> Shard<Dim>: this rank's part of the sum.
  template <int Dim, class Tp, class Dp>
  auto reduce_scatter(const Placed<Tp, Dp>& x) const {
    static_assert(is<on<Tp, Dp>, Partial>,
                  "reduce_scatter: not a Partial on this axis, there is no sum to take.");
    return replace<Shard<Dim>, Tp, Dp>(comm_.reduce_scatter(x.local(), Dim));
  }
  /// Shard<d> -> Replicated.
  template <class Tp, class Dp>
  auto all_gather(const Placed<Tp, Dp>& x) const {
    using From = on<Tp, Dp>;
    static_assert(is<From, Shard<0>> || is<From, Shard<1>>,
                  "all_gather: not a Shard on this axis. A Partial wants all_reduce.");
    return replace<Replicated, Tp, Dp>(comm_.all_gather(x.local(), is<From, Shard<1>> ? 1 : 0));
  }
  /// Replicated -> Shard<Dim>: sends nothing.
  template <int Dim, class Tp, class Dp>
  auto take_shard(const Placed<Tp, Dp>& x) const {
    static_assert(is<on<Tp, Dp>, Replicated>,
                  "take_shard: not Replicated on this axis. A Partial wants reduce_scatter.");
    return replace<Shard<Dim>, Tp, Dp>(comm_.take_shard(x.local(), Dim));
  }

 private:
  template <class Tp, class Dp>
  using on = std::conditional_t<Number == 0, Tp, Dp>;
  template <class New, class Tp, class Dp>
  static auto replace(Tensor local) {
    return Placed<std::conditional_t<Number == 0, New, Tp>, std::conditional_t<Number == 1, New, Dp>>(
        std::move(local));
  }
  Communicator& comm_;
};

using TensorParallel = Axis<0>;
using DataParallel = Axis<1>;

}  // namespace tessera
