#include "07_data_parallel/buckets.hpp"
#include "07_data_parallel/data_parallel.hpp"
#include "lab.hpp"
#include "relay.hpp"

using namespace tessera;
using namespace tessera::data_parallel;

namespace {

struct Setup {
  int n, k, f, rank;
  Slice x, y, a, c;  // the rank's rows of (N, W) and of (N, F); (W, F), (1, F)
};

void on_ranks(Trial& t, const std::function<void(const Setup&, Communicator&)>& body) {
  const int n = t.ranks() + t.size(), k = t.size(), f = t.size();
  t.on_ranks([&](Communicator& comm) {
    const Range own = own_rows(n, comm.rank(), comm.size());
    const Slice x{n, k, {own}, {{0, k}}}, y{n, f, {own}, {{0, f}}};
    body({n, k, f, comm.rank(), x, y, Slice::whole(k, f), Slice::whole(1, f)}, comm);
  });
}

const Task forward("07.forward", [](Trial& t) {
  on_ranks(t, [&](const Setup& s, Communicator&) {
    ByHand layer{t.in("A", s.a), t.in("c", s.c)};
    layer.forward(t.in("X", s.x));
    t.out(s.rank, "y", "[X1; X2] A + c = [X1 A + c; X2 A + c]", layer.y, s.y);
  });
});

const Task backward("07.backward", [](Trial& t) {
  on_ranks(t, [&](const Setup& s, Communicator& comm) {
    ByHand layer{t.in("A", s.a), t.in("c", s.c)};
    layer.backward(t.in("dY", s.y), t.in("X", s.x), comm);
    t.out(s.rank, "dx", "dX = [dY1 A'; dY2 A']", layer.dx, s.x);
    t.out(s.rank, "da", "dA = X1' dY1 + X2' dY2", layer.da, s.a);
    t.out(s.rank, "dc", "dc = sum dY1 + sum dY2", layer.dc, s.c);
  });
});

const Task typed("07.typed", [](Trial& t) {
  on_ranks(t, [&](const Setup& s, Communicator& comm) {
    const Linear layer{Placed<Replicated>(t.in("A", s.a)), Placed<Replicated>(t.in("c", s.c))};
    const Rows x(t.in("X", s.x)), dy(t.in("dY", s.y));
    t.out(s.rank, "y", "[X1; X2] A + c = [X1 A + c; X2 A + c]", layer.forward(x).local(), s.y);
    t.out(s.rank, "dx", "dX = [dY1 A'; dY2 A']", layer.backward_input(dy).local(), s.x);
    for (int batch = 0; batch < 2; ++batch) layer.backward_weight(x, dy);  // microbatches add up
    const auto [da, dc] = layer.finish(DataParallel(comm));
    t.out(s.rank, "da", "dA += X1' dY1 + X2' dY2, twice", da.local(), s.a);
    t.out(s.rank, "dc", "dc += sum dY1 + sum dY2, twice", dc.local(), s.c);
  });
});

const Task bucket("07.bucket", [](Trial& t) {
  std::vector<int> sizes;
  for (int i = 0; i < 6; ++i) sizes.push_back(t.size(1, 9));
  const int bytes = 8 * t.size(1, 20);
  t.on_ranks([&](Communicator& comm) {
    std::vector<Parameter> parameters;
    for (const int n : sizes) parameters.push_back({"w", {}, Tensor::zeros(1, n, DType::f64), {}});
    const std::int64_t count = Buckets::offset(parameters, sizes.size());
    const Tensor all = Tensor::zeros(1, count, DType::f64);
    const Tensor final_ones = t.in(format("gradients of rank {}", comm.rank()), 1, count);
    Buckets buckets(all, parameters, bytes);
    std::vector<std::string> words;
    for (int step = 0; step < 2; ++step)
      for (std::size_t i = parameters.size(); i-- > 0;) {  // the backward comes down, gradient by gradient
        const std::int64_t at = Buckets::offset(parameters, i), end = at + sizes[i];
        all.column_range(at, end).copy_from(final_ones.column_range(at, end));
        buckets.ready_from(at, comm);
        words.push_back(format("step {}, final from {} on: {} of {} buckets are posted", step, at,
                               buckets.posted(), buckets.count()));
        if (i == 0) buckets.finish();
      }
    if (comm.rank() == 0) t.out("posted", words);
    t.out(comm.rank(), "sums", "every gradient, summed over the ranks", all, Slice::whole(1, count));
  });
});

const Task overlapped("07.overlapped", [](Trial& t) {
  on_ranks(t, [&](const Setup& s, Communicator& comm) {
    ByHand layer{t.in("A", s.a), t.in("c", s.c)};
    Watched watched(comm, [&] { return layer.dx.defined() ? 1 : 0; });
    layer.backward_overlapped(t.in("dY", s.y), t.in("X", s.x), watched);
    t.out(s.rank, "dx", "dX = [dY1 A'; dY2 A']", layer.dx, s.x);
    t.out(s.rank, "da", "dA = X1' dY1 + X2' dY2", layer.da, s.a);
    t.out(s.rank, "dc", "dc = sum dY1 + sum dY2", layer.dc, s.c);
    t.count(format("rank {} has # sums under way while it computes dX", s.rank), watched.hidden);
  });
});

}  // namespace
