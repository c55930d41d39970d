#include "07_data_parallel/buckets.hpp"
#include "07_data_parallel/data_parallel.hpp"
#include "lab.hpp"
#include "relay.hpp"

using namespace tessera;
using namespace tessera::data_parallel;

namespace {

struct Setup {
  Trial& t;
  int n = t.ranks() + t.size(), k = t.size(), f = t.size();
  Range own = own_rows(n, t.rank(), t.ranks());
  Slice x_rows{n, k, {own}, {{0, k}}}, y_rows{n, f, {own}, {{0, f}}};
  Tensor a = t.in("A", k, f), c = t.in("c", 1, f), x = t.in("X", x_rows), dy = t.in("dY", y_rows);
  ByHand by_hand{a, c};

  void out_gradients() const {
    t.out("dx", "dX = [dY1 A'; dY2 A']", by_hand.dx, x_rows);
    t.out("da", "dA = X1' dY1 + X2' dY2", by_hand.da);
    t.out("dc", "dc = sum dY1 + sum dY2", by_hand.dc);
  }
};

const RankTask forward("07.forward", [](Trial& t) {
  Setup s{t};
  s.by_hand.forward(s.x);
  t.out("y", "[X1; X2] A + c = [X1 A + c; X2 A + c]", s.by_hand.y, s.y_rows);
});

const RankTask backward("07.backward", [](Trial& t) {
  Setup s{t};
  s.by_hand.backward(s.dy, s.x, t.comm());
  s.out_gradients();
});

const RankTask overlapped("07.overlapped", [](Trial& t) {
  Setup s{t};
  Watched watched(t.comm(), [&] { return s.by_hand.dx.defined() ? 1 : 0; });
  s.by_hand.backward_overlapped(s.dy, s.x, watched);
  s.out_gradients();
  t.count(format("rank {} has # sums under way while it computes dX", t.rank()), watched.hidden);
});

const RankTask typed("07.typed", [](Trial& t) {
  const Setup s{t};
  const Linear layer{Placed<Replicated>(s.a), Placed<Replicated>(s.c)};
  const Rows x(s.x), dy(s.dy);
  t.out("y", "[X1; X2] A + c = [X1 A + c; X2 A + c]", layer.forward(x).local(), s.y_rows);
  t.out("dx", "dX = [dY1 A'; dY2 A']", layer.backward_input(dy).local(), s.x_rows);
  for (int batch = 0; batch < 2; ++batch) layer.backward_weight(x, dy);  // microbatches add up
  const auto [da, dc] = layer.finish(DataParallel(t.comm()));
  t.out("da", "dA += X1' dY1 + X2' dY2, twice", da);
  t.out("dc", "dc += sum dY1 + sum dY2, twice", dc);
});

const RankTask bucket("07.bucket", [](Trial& t) {
  std::vector<int> sizes;
  std::vector<Parameter> parameters;
  for (int i = 0; i < 6; ++i) {
    sizes.push_back(t.size(1, 9));
    parameters.push_back({"w", {}, Tensor::zeros(1, sizes.back(), DType::f64), {}});
  }
  const std::int64_t count = Buckets::offset(parameters, sizes.size());
  const Tensor all = Tensor::zeros(1, count, DType::f64);
  const Tensor final_ones = t.in(format("gradients of rank {}", t.rank()), 1, count);
  Buckets buckets(all, parameters, 8 * t.size(1, 20));
  std::vector<std::string> words;
  for (int step = 0; step < 2; ++step)
    for (std::size_t i = parameters.size(); i-- > 0;) {  // the backward comes down, gradient by gradient
      const std::int64_t at = Buckets::offset(parameters, i), end = at + sizes[i];
      all.column_range(at, end).copy_from(final_ones.column_range(at, end));
      buckets.ready_from(at, t.comm());
      words.push_back(format("step {}, final from {} on: {} of {} buckets are posted", step, at,
                             buckets.posted(), buckets.count()));
      if (i == 0) buckets.finish();
    }
  if (t.rank() == 0) t.words("posted", words);
  t.out("sums", "every gradient, summed over the ranks", all);
});

}  // namespace
