#include "12_experts/experts.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::experts;

namespace {

/// `n` numbers of [least, most].
std::vector<std::int64_t> drawn(Trial& t, int n, int least, int most) {
  std::vector<std::int64_t> numbers;
  for (int i = 0; i < n; ++i) numbers.push_back(t.size(least, most));
  return numbers;
}

const Task largest("12.top_k", [](Trial& t) {
  const Tensor p = t.in("p", t.size(), t.size(3, 8));
  p.column_range(2, 3).copy_from(p.column_range(0, 1));  // equal ones
  t.words("the experts of each token", top_k(p, t.size(1, 3)),
          [](auto expert) { return std::to_string(expert); });
});

const RankTask balance("12.aux", [](Trial& t) {
  const int experts = t.size(2, 5), k = t.size(1, 2);
  std::vector<std::vector<std::int64_t>> chosen;  // of each rank, with tokens of its own number
  for (int rank = 0; rank < t.ranks(); ++rank) chosen.push_back(drawn(t, k * t.size(), 0, experts - 1));
  const auto& mine = chosen[static_cast<std::size_t>(t.rank())];
  const Router router{t.in("Wr", 2, experts), k, 0, 0.5};
  Router::Saved saved;
  saved.p = t.in(format("p of rank {}", t.rank()), std::ssize(mine) / k, experts);
  const auto balanced = [&](const std::vector<Communicator*>& over) {
    router.balance(mine, saved, over);
    return Tensor::of(1, experts, saved.aux_gradient);
  };
  t.out("aux gradient", "alpha E share_i / N", balanced({&t.comm()}));
  t.out("aux", "alpha E sum share_i mean_i", Tensor::of(1, 1, {saved.aux}));
  t.mistake("aux gradient", "that of this rank's own tokens", [&] { return balanced({}); });
});

const RankTask dispatch("12.dispatch", [](Trial& t) {
  const int own = t.size(1, 3), cols = t.size();
  std::vector<std::vector<std::int64_t>> counts;  // of each rank, for each expert
  for (int rank = 0; rank < t.ranks(); ++rank) counts.push_back(drawn(t, t.ranks() * own, 0, 2));
  const auto& mine = counts[static_cast<std::size_t>(t.rank())];
  const Dispatch made(mine, t.comm());
  const Tensor x = t.in(format("rows of rank {}", t.rank()), std::reduce(mine.begin(), mine.end()), cols);
  const Tensor there = made.to_experts(x);
  t.out(format("rows at rank {}", t.rank()), "the rows for each of its experts, rank by rank", there);
  t.out(format("rows back at rank {}", t.rank()), "its own rows in their order", made.home(there));
});

const RankTask layer("12.layer", [](Trial& t) {
  const int own = t.size(1, 2), n = t.size(), w = t.size(), f = t.size(), k = t.size(1, 2);
  const int first = t.rank() * own, all = t.ranks() * own;
  Experts made{{t.in("Wr", w, all), std::min(k, all), 0, 0}, {}, &t.comm(), {&t.comm()}};
  for (int i = first; i < first + own; ++i) {
    const std::string of = format(" of {}", i);
    made.experts.push_back(
        {t.in("A" + of, w, f), t.in("c1" + of, 1, f), t.in("B" + of, f, w), t.in("c2" + of, 1, w)});
  }
  const auto tokens = [&](const char* name) { return t.in<Shard<0>>(name, t.ranks() * n, w).local(); };
  Experts::Saved saved;
  t.out<Shard<0>>("Y", "Y = sum of g_i E_i(X)", made.forward(tokens("X"), saved));
  t.out<Shard<0>>("dX", "dX = sum of E_i' g_i dY + dZ Wr'", made.backward_input(tokens("dY"), saved));
  made.backward_weight(saved);
  for (int i = 0; i < own; ++i)
    t.out(format("dA of {}", first + i), "dA = X' dU of the rows that came", made.experts[i].da);
});

const RankTask sums("12.sums", [](Trial& t) {
  const int ep = t.ranks() % 2 == 0 ? 2 : 1, place = t.rank() % ep;
  const auto group = t.comm().split(place, 0, "expert_dp");
  const auto gradients = [&](const char* of) {
    return t.in(format("{}, rank {}", of, t.rank()), 1, t.size()).copy();
  };
  const Tensor of_router = gradients("router"), of_experts = gradients("experts");
  sum_gradients(of_router, of_experts, t.comm(), *group);
  t.out("router", "the sum over all ranks", of_router);
  t.out(format("experts of {}", place), "the sum over the ranks that hold them", of_experts);
});

}  // namespace
