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
  std::vector<std::string> words;
  for (const std::int64_t expert : top_k(p, t.size(1, 3))) words.push_back(std::to_string(expert));
  t.out("the experts of each token", words);
});

const Task balance("12.aux", [](Trial& t) {
  const int experts = t.size(2, 5), k = t.size(1, 2);
  std::vector<std::vector<std::int64_t>> chosen;  // of each rank, with tokens of its own number
  for (int rank = 0; rank < t.ranks(); ++rank) chosen.push_back(drawn(t, k * t.size(), 0, experts - 1));
  t.on_ranks([&](Communicator& batch) {
    const Router router{t.in("Wr", 2, experts), k, 0, 0.5};
    const auto& mine = chosen[static_cast<std::size_t>(batch.rank())];
    Router::Saved saved, own;
    own.p = saved.p = t.in(format("p of rank {}", batch.rank()), std::ssize(mine) / k, experts);
    router.balance(mine, saved, {&batch});
    const auto row = [&](const Router::Saved& of) { return Tensor::of(1, experts, of.even); };
    const Slice whole = Slice::whole(1, experts);
    t.out(batch.rank(), "even", "alpha E share_i / N", row(saved), whole);
    t.out(batch.rank(), "aux", "alpha E sum share_i mean_i", Tensor::of(1, 1, {saved.aux}),
          Slice::whole(1, 1));
    if (!t.reference()) return;
    router.balance(mine, own, {});
    t.mistake(batch.rank(), "even", "that of this rank's own tokens", row(own), whole);
  });
});

const Task dispatch("12.dispatch", [](Trial& t) {
  const int p = t.ranks(), own = t.size(1, 3), cols = t.size();
  std::vector<std::vector<std::int64_t>> counts;  // of each rank, for each expert
  for (int rank = 0; rank < p; ++rank) counts.push_back(drawn(t, p * own, 0, 2));
  t.on_ranks([&](Communicator& ep) {
    const auto& mine = counts[static_cast<std::size_t>(ep.rank())];
    const Dispatch made(mine, ep);
    const Tensor x = t.in(format("rows of rank {}", ep.rank()), std::reduce(mine.begin(), mine.end()), cols);
    const Tensor there = made.to_experts(x), home = made.home(there);
    t.out(ep.rank(), format("rows at rank {}", ep.rank()), "the rows for each of its experts, rank by rank",
          there, Slice::whole(there.rows(), cols));
    t.out(ep.rank(), format("rows back at rank {}", ep.rank()), "its own rows in their order", home,
          Slice::whole(home.rows(), cols));
  });
});

const Task layer("12.layer", [](Trial& t) {
  const int own = t.size(1, 2), n = t.size(), w = t.size(), f = t.size(), k = t.size(1, 2);
  t.on_ranks([&](Communicator& ep) {
    const int first = ep.rank() * own, all = ep.size() * own;
    Experts made{{t.in("Wr", w, all), std::min(k, all), 0, 0}, {}, &ep, {&ep}};
    for (int i = first; i < first + own; ++i) {
      const auto in = [&](const char* name, int rows, int cols) {
        return t.in(format("{} of {}", name, i), rows, cols);
      };
      made.experts.push_back({in("A", w, f), in("c1", 1, f), in("B", f, w), in("c2", 1, w)});
    }
    const Slice tokens = Slice::rows(ep.size() * n, w, ep.rank(), ep.size());
    Experts::Saved saved;
    t.out(ep.rank(), "Y", "Y = sum of g_i E_i(X)", made.forward(t.in("X", tokens), saved), tokens);
    t.out(ep.rank(), "dX", "dX = sum of E_i' g_i dY + dZ Wr'", made.backward_input(t.in("dY", tokens), saved),
          tokens);
    made.backward_weight(saved);
    for (int i = 0; i < own; ++i)
      t.out(ep.rank(), format("dA of {}", first + i), "dA = X' dU of the rows that came", made.experts[i].da,
            Slice::whole(w, f));
  });
});

const Task sums("12.sums", [](Trial& t) {
  const int router = t.size(), experts = t.size();
  t.on_ranks([&](Communicator& batch) {
    const int ep = batch.size() % 2 == 0 ? 2 : 1;
    const auto group = batch.split(batch.rank() % ep, 0, "expert_dp");
    const Tensor of_router = t.in(format("router, rank {}", batch.rank()), 1, router).copy(),
                 of_experts = t.in(format("experts, rank {}", batch.rank()), 1, experts).copy();
    sum_gradients(of_router, of_experts, batch, *group);
    t.out(batch.rank(), "router", "the sum over all ranks", of_router, Slice::whole(1, router));
    t.out(batch.rank(), format("experts of {}", batch.rank() % ep), "the sum over the ranks that hold them",
          of_experts, Slice::whole(1, experts));
  });
});

}  // namespace
