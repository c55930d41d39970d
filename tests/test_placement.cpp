// Every legal combination of placements has the type that block matrices give it, on both axes. What must
// not compile stands in forbidden/programs.txt.
#include "placement/placed_ops.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

using R = Replicated;
using S0 = Shard<0>;
using S1 = Shard<1>;
using P = Partial;

template <class T>
const T& a();  // a value of type T, for decltype
template <class L, class R>
using Matmul = decltype(matmul(a<L>(), a<R>()));
template <class T>
using T_ = decltype(t(a<T>()));

// The table, with the rule on tp, on dp, and on both at once.
template <class L, class R_, class Y>
constexpr bool rule =
    is<Matmul<Placed<L>, Placed<R_>>, Placed<Y>>&& is<Matmul<Placed<R, L>, Placed<R, R_>>, Placed<R, Y>>&&
        is<Matmul<Placed<L, L>, Placed<R_, R_>>, Placed<Y, Y>>;
static_assert(rule<R, R, R> && rule<R, S1, S1> && rule<S0, R, S0> && rule<S1, S0, P>);
// Each axis by itself: the forward of a column-parallel layer with tokens cut over dp,
// then its two gradients.
static_assert(is<Matmul<Placed<R, S0>, Placed<S1, R>>, Placed<S1, S0>>);      // Y = X A
static_assert(is<Matmul<T_<Placed<R, S0>>, Placed<S1, S0>>, Placed<S1, P>>);  // dA = X' dY: a sum over dp
static_assert(is<Matmul<Placed<S1, S0>, T_<Placed<S1, R>>>, Placed<P, S0>>);  // dX = dY A': a sum over tp

template <class From, class To>
constexpr bool turned =
    is<T_<Placed<From, R>>, PlacedTransposed<To, R>>&& is<T_<Placed<R, From>>, PlacedTransposed<R, To>>;
static_assert(turned<S0, S1> && turned<S1, S0> && turned<R, R> && turned<P, P>);

// Functions of one matrix: what each placement becomes.
template <class From, class To>
constexpr bool sums = is<decltype(sum_rows(a<Placed<From, R>>())), Placed<To, R>>&&
    is<decltype(sum_rows(a<Placed<R, From>>())), Placed<R, To>>;
static_assert(sums<R, R> && sums<S1, S1> && sums<S0, P> && sums<P, P>);
template <class X>
constexpr bool element_wise = is<decltype(gelu(a<X>())), X>&& is<decltype(relu(a<X>())), X>&&
    is<decltype(gelu_backward(a<X>(), a<X>())), X>&& is<decltype(relu_backward(a<X>(), a<X>())), X>;
static_assert(element_wise<Placed<R>> && element_wise<Placed<S0>> && element_wise<Placed<S1>> &&
              element_wise<Placed<S1, S0>> && element_wise<Placed<R, S1>>);
template <class X>
constexpr bool linear = is<decltype(add(a<X>(), a<X>())), X>&& is<decltype(scale(a<X>(), 2)), X>&&
    is<decltype(zero_gradient(a<X>())), X>;
static_assert(linear<Placed<R>> && linear<Placed<S0>> && linear<Placed<S1>> && linear<Placed<P>> &&
              linear<Placed<S1, P>> && linear<Placed<P, S0>>);
template <class X, class C>
constexpr bool biased = is<decltype(add_bias(a<X>(), a<C>())), X>;
static_assert(biased<Placed<R>, Placed<R>> && biased<Placed<S0>, Placed<R>> &&
              biased<Placed<S1>, Placed<S1>> && biased<Placed<S1, S0>, Placed<S1, R>>);
template <class Ids, class Table>
using Embedded = decltype(embedding(a<Ids>(), a<Table>()));
static_assert(is<Embedded<Placed<R>, Placed<S1>>, Placed<S1>> &&
              is<Embedded<Placed<S0>, Placed<R>>, Placed<S0>> &&
              is<Embedded<Placed<R, S0>, Placed<S1>>, Placed<S1, S0>>);

// A collective changes its own axis alone.
template <class Other>
constexpr bool collectives = is<decltype(a<TensorParallel>().all_reduce(a<Placed<P, Other>>())),
                                Placed<R, Other>>&&
    is<decltype(a<DataParallel>().all_reduce(a<Placed<Other, P>>())), Placed<Other, R>>&& is<
        decltype(a<TensorParallel>().all_gather(a<Placed<S0, Other>>())), Placed<R, Other>>&&
        is<decltype(a<DataParallel>().all_gather(a<Placed<Other, S1>>())), Placed<Other, R>>&& is<
            decltype(a<TensorParallel>().reduce_scatter<1>(a<Placed<P, Other>>())), Placed<S1, Other>>&&
            is<decltype(a<DataParallel>().reduce_scatter<0>(a<Placed<Other, P>>())), Placed<Other, S0>>&&
                is<decltype(a<TensorParallel>().take_shard<0>(a<Placed<R, Other>>())), Placed<S0, Other>>&&
                    is<decltype(a<DataParallel>().take_shard<1>(a<Placed<Other, R>>())), Placed<Other, S1>>;
static_assert(collectives<R> && collectives<S0> && collectives<S1> && collectives<P>);

/// Small integers: every sum is exact in any order.
Tensor integers(const char* name, const Slice& slice) {
  return generate(11, name, slice, DType::f64, Fill::integer, 3);
}

}  // namespace

TEST_CASE(
    "placements on two axes: dA of a column-parallel layer, tokens cut over dp, is a sum over dp alone") {
  struct Grid {
    int dp, tp;
  };
  for (const Grid grid : {Grid{1, 2}, {2, 1}, {2, 2}, {1, 3}, {3, 1}, {4, 1}})
    on_ranks(grid.dp * grid.tp, [&](Communicator& world) {
      const auto tp_group = world.split(world.rank() / grid.tp, world.rank(), "tp");
      const auto dp_group = world.split(world.rank() % grid.tp, world.rank(), "dp");
      const TensorParallel tp(*tp_group);
      const DataParallel dp(*dp_group);
      const std::int64_t n = 12, k = 5, f = 24;
      const Tensor whole_x = integers("X", Slice::whole(n, k)), whole_dy = integers("dY", Slice::whole(n, f)),
                   whole_a = integers("A", Slice::whole(k, f)), whole_c = integers("c", Slice::whole(1, f));
      const Slice tokens = slice_of<S0>(n, k, dp.comm()), columns = slice_of<S1>(k, f, tp.comm());
      const Placed<R, S0> x(integers("X", tokens));
      const Placed<S1> weight(integers("A", columns)), bias(integers("c", slice_of<S1>(1, f, tp.comm())));
      const auto equal = [&](const Tensor& part, const Tensor& whole, const Slice& slice) {
        expect(part.values() == slice.extract(whole).values(), "not the whole's part");
      };
      // Tokens of dp rank i, columns of tp rank j: the block (i, j) of dY.
      const Slice block{n, f, tokens.row_ranges, columns.col_ranges};

      const Placed<S1, S0> y = add_bias(matmul(x, weight), bias);
      equal(y.local(), add_bias(matmul(whole_x, whole_a), whole_c), block);

      const Placed<S1, S0> dy(integers("dY", block));
      const Placed<S1, P> term = matmul(t(x), dy);
      const Placed<S1, P> sum = zero_gradient(term);
      add_matmul(sum, t(x), dy);
      equal(dp.all_reduce(term).local(), matmul(t(whole_x), whole_dy), columns);
      equal(dp.all_reduce(sum).local(), matmul(t(whole_x), whole_dy), columns);
      equal(dp.all_reduce(sum_rows(dy)).local(), sum_rows(whole_dy), slice_of<S1>(1, f, tp.comm()));

      const Placed<R, S0> dx = tp.all_reduce(matmul(dy, t(weight)));
      equal(dx.local(), matmul(whole_dy, t(whole_a)), tokens);

      // A gather on each axis undoes its cut; on both it gives the whole.
      const Tensor whole_y = add_bias(matmul(whole_x, whole_a), whole_c);
      equal(tp.all_gather(y).local(), whole_y, Slice{n, f, tokens.row_ranges, {{0, f}}});
      equal(dp.all_gather(tp.all_gather(y)).local(), whole_y, Slice::whole(n, f));
    });
}
