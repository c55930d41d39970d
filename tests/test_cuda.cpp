// What needs a GPU: its mathematics against the CPU's, ranks that share one, ranks that have one each (NCCL).
// Without a GPU only the refusals are tested, and each other case says that it was skipped.
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "ops/ops.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

#define NEEDS_GPUS(n)                                                        \
  if (cuda_device_count() < (n)) {                                           \
    MESSAGE("skipped: needs ", (n), " GPU(s), found ", cuda_device_count()); \
    return;                                                                  \
  }

using Results = std::vector<std::vector<double>>;

/// A (rows, cols) view with rows that lie apart, the same elements on every device.
Tensor view(const char* name, std::int64_t rows, std::int64_t cols, DType dtype, Fill fill, double scale) {
  return generate(7, name, Slice::whole(rows + 1, cols + 3), dtype, fill, scale)
      .row_range(1, rows + 1)
      .column_range(2, cols + 2);
}

Tensor ids(std::int64_t rows, int vocabulary, bool outside) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < rows; ++i)
    values.push_back(static_cast<double>((i * i + 3) % vocabulary + (outside ? i % 3 - 1 : 0)));
  return Tensor::of(rows, 1, values, DType::i32);
}

/// Every function of ops.hpp on views of (n, f) and (f, m).
Results all_ops(std::int64_t n, std::int64_t f, std::int64_t m, DType dtype, Fill fill, double scale) {
  const auto make = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    return view(name, rows, cols, dtype, fill, scale);
  };
  const Tensor x = make("x", n, f), y = make("y", n, f), a = make("a", f, m), at = make("at", m, f);
  const Tensor c = make("c", 1, f), dy = make("dy", n, m), table = make("table", 11, f);
  const Tensor seen = ids(n, 11, true), targets = ids(n, static_cast<int>(f), false);
  Results results;
  const auto keep = [&](const Tensor& tensor) { results.push_back(tensor.values()); };
  keep(matmul(x, a));
  keep(matmul(x, t(at)));
  keep(matmul(t(x), dy));
  const Tensor sum = make("sum", f, m);
  add_matmul(sum, t(x), dy);
  keep(sum);
  keep(add_bias(x, c));
  keep(sum_rows(x));
  const Tensor row = make("row", 1, f);
  add_sum_rows(row, x);
  keep(row);
  keep(add(x, y));
  keep(tessera::scale(x, -3));
  keep(relu(x));
  keep(relu_backward(y, x));
  keep(cast(x, dtype == DType::f32 ? DType::f64 : DType::f32));
  keep(embedding(seen, table));
  const Tensor dtable = make("dtable", 11, f);
  add_embedding_backward(dtable, x, seen);
  keep(dtable);
  if (fill == Fill::integer) return results;  // what follows is not exact
  keep(gelu(x));
  keep(gelu_backward(y, x));
  const CrossEntropy loss = cross_entropy(x, targets);
  keep(loss.loss);
  keep(loss.probabilities);
  keep(cross_entropy_backward(loss, targets, 5 * n + 1));
  const Tensor w = make("w", n, f), v = make("v", n, f), mean = make("mean", n, f);
  sgd(w, v, y, 0.1, 0.9);
  keep(w);
  keep(v);
  const Tensor square = Tensor::zeros(n, f, dtype);
  adamw(w, mean, square, y, {}, 3);
  keep(w);
  keep(mean);
  keep(square);
  return results;
}

template <class F>
auto on(DeviceKind kind, const F& body) {
  const Device::Scope scope(Device::make(kind));
  return body();
}

constexpr std::int64_t shapes[][3] = {{1, 1, 1}, {7, 33, 5}, {300, 65, 17}, {129, 1000, 3}, {2, 3, 600}};

LaunchOptions gpus(int n, Transport transport) {
  LaunchOptions options = ranks(n);
  options.device = DeviceKind::cuda;
  options.transport = transport;
  options.timeout = std::chrono::seconds(20);
  return options;
}

double element(int rank, std::int64_t i) { return static_cast<double>((i * 7 + rank * 13) % 31 - 15); }

Tensor input(int rank, std::int64_t rows, std::int64_t cols, DType dtype) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < rows * cols; ++i) values.push_back(element(rank, i));
  return Tensor::of(rows, cols, values, dtype);
}

void same(const Tensor& tensor, const std::vector<double>& expected, const char* what) {
  expect(tensor.values() == expected, what);
}

void every_collective(Communicator& comm, std::int64_t rows, std::int64_t cols, DType dtype) {
  const int n = comm.size(), me = comm.rank();
  const Tensor x = input(me, rows, cols, dtype);
  std::vector<double> sum, largest, stacked, times_n;
  for (std::int64_t i = 0; i < x.size(); ++i) {
    sum.push_back(0);
    largest.push_back(-99);
    for (int r = 0; r < n; ++r)
      sum.back() += element(r, i), largest.back() = std::max(largest.back(), element(r, i));
    times_n.push_back(n * element(me, i));
  }
  for (int r = 0; r < n; ++r)
    for (std::int64_t i = 0; i < x.size(); ++i) stacked.push_back(element(r, i));
  same(comm.all_reduce(x), sum, "all_reduce");
  same(comm.all_reduce(x, Reduce::max), largest, "maximum");
  const Tensor gathered = comm.all_gather(x, 0), wide = comm.all_gather(x, 1);
  same(gathered, stacked, "all_gather of rows");
  same(comm.reduce_scatter(gathered, 0), times_n, "reduce_scatter of rows");
  same(comm.reduce_scatter(wide, 1), times_n, "reduce_scatter of columns");
  const Tensor first = x.copy(), second = x.copy();
  Request one = comm.iall_reduce(first), two = comm.iall_reduce(second);
  two.wait();
  one.wait();
  same(first, sum, "iall_reduce");
  same(second, sum, "iall_reduce, waited for out of order");
  comm.broadcast(first, n - 1);
  comm.barrier();
}

/// Every rank sends to every other one before it receives, and waits in an order of its own.
void every_message(Communicator& comm) {
  const int n = comm.size(), me = comm.rank();
  std::vector<Tensor> in;
  std::vector<Request> requests;
  for (int round = 0; round < 3; ++round) {
    for (int peer = 0; peer < n; ++peer)
      if (peer != me)
        requests.push_back(comm.isend(input(100 * round + 10 * me + peer, 40, 5, DType::f32), peer));
    for (int peer = n - 1; peer >= 0; --peer)
      if (peer != me) {
        in.push_back(Tensor::empty(40, 5, DType::f32));
        requests.push_back(comm.irecv(in.back(), peer));
      }
  }
  same(comm.all_reduce(Tensor::of(1, 1, {1})), {static_cast<double>(n)}, "a collective among messages");
  if (me % 2 == 1) std::reverse(requests.begin(), requests.end());
  for (Request& request : requests) request.wait();
  std::size_t k = 0;
  for (int round = 0; round < 3; ++round)
    for (int peer = n - 1; peer >= 0; --peer)
      if (peer != me)
        same(in[k++], input(100 * round + 10 * peer + me, 40, 5, DType::f32).values(), "message");
}

/// Memory that goes back to the pool while the GPU still works on it must not be given to anyone too early.
void churn(Communicator& comm) {
  const std::int64_t width = 700;
  const int n = comm.size();
  std::int64_t warm = 0;
  for (int step = 0; step < 30; ++step) {
    Tensor x = Tensor::of(1, width, std::vector<double>(width, comm.rank() + step), DType::f32);
    for (int layer = 0; layer < 4; ++layer) {
      const Tensor zeros = Tensor::zeros(width, width, DType::f32);
      x = comm.all_reduce(add(x, matmul(x, matmul(zeros, zeros))));  // products that take a while
    }
    const double sum = std::pow(n, 3) * (n * step + n * (n - 1) / 2);
    same(x, std::vector<double>(width, sum), "sums in a chain");
    if (step == 2) warm = x.device()->system_allocations();
    if (step > 2) expect_eq(x.device()->system_allocations(), warm, "system allocations in steady state");
  }
}

std::string said(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  try {
    launch(options, body);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("cuda: what is not there is refused with what would work") {
  CHECK(cuda_device_count() >= 0);
  const std::string missing = said(gpus(1, Transport::threads), [](Communicator&) {});
  if (!built_with_cuda()) CHECK(contains(missing, "no CUDA"));
  if (built_with_cuda() && cuda_device_count() == 0) CHECK(contains(missing, "--device cpu would work"));
  CHECK_THROWS_AS(make_cuda_device(cuda_device_count()), UsageError);
}

TEST_CASE("cuda: the mathematics agrees with the CPU's, exactly where sums are exact, and repeats") {
  NEEDS_GPUS(1)
  for (const auto& [n, f, m] : shapes)
    for (const DType dtype : {DType::f32, DType::f64})
      for (const Fill fill : {Fill::integer, Fill::uniform}) {
        CAPTURE(n);
        CAPTURE(f);
        CAPTURE(m);
        CAPTURE(name(dtype));
        const double scale = fill == Fill::integer ? 3 : 2.5;
        const auto compute = [&, n = n, f = f, m = m] { return all_ops(n, f, m, dtype, fill, scale); };
        const Results cpu = on(DeviceKind::cpu, compute), gpu = on(DeviceKind::cuda, compute);
        CHECK(gpu == on(DeviceKind::cuda, compute));
        REQUIRE(cpu.size() == gpu.size());
        // Two orders of the same sum of k terms differ by at most k u times the sum of the absolute terms;
        // 25 u of gelu's slope is the largest constant of the others (adamw divides by sqrt(v) of 0.03 y^2).
        const double u = dtype == DType::f32 ? 0x1p-24 : 0x1p-53;
        const double terms = static_cast<double>(std::max({n, f, m, std::int64_t{50}}));
        const double bound = fill == Fill::integer ? 0 : 2 * terms * u * terms * scale * scale;
        for (std::size_t k = 0; k < cpu.size(); ++k) {
          CAPTURE(k);
          REQUIRE(cpu[k].size() == gpu[k].size());
          double error = 0;
          for (std::size_t i = 0; i < cpu[k].size(); ++i) {
            const double difference = std::abs(cpu[k][i] - gpu[k][i]);
            if (!(difference <= error)) error = difference;  // NaN stays
          }
          CHECK(error <= bound);
        }
      }
}

TEST_CASE("cuda: empty tensors, NaN, and the far ends of gelu") {
  NEEDS_GPUS(1)
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const auto compute = [&] {
    const Tensor none = Tensor::zeros(0, 5, DType::f32), wide = Tensor::zeros(3, 0, DType::f32);
    expect_eq(sum_rows(none).values() == std::vector<double>(5, 0), true, "the sum of no rows");
    expect_eq(matmul(wide, Tensor::zeros(0, 2, DType::f32)).values() == std::vector<double>(6, 0), true,
              "a product of no terms");
    gelu(none), relu(wide), add(none, none), matmul(none, Tensor::zeros(5, 2, DType::f32)).values();
    const Tensor x = Tensor::of(1, 6, {nan, -1e20, 1e20, -inf, -0.0, -4.5}, DType::f32);
    Results results = {relu(x).values(), relu_backward(x, x).values()};
    const Tensor far = x.column_range(1, 3), ones = Tensor::of(1, 2, {1, 1}, DType::f32);
    results.push_back(gelu(far).values());
    results.push_back(gelu_backward(ones, far).values());
    for (auto& values : results)
      for (double& value : values)
        if (std::isnan(value)) value = 12345;
    return results;
  };
  CHECK(on(DeviceKind::cuda, compute) == on(DeviceKind::cpu, compute));
}

TEST_CASE("cuda: ranks that share a GPU") {
  NEEDS_GPUS(1)
  for (const int n : {1, 2, 3, 4, 8}) {
    CAPTURE(n);
    CHECK(said(gpus(n, Transport::threads), [](Communicator& comm) {
            for (const auto& [rows, cols] : {std::pair{1, 1}, {0, 3}, {5, 3}, {17, 61}})
              for (const DType dtype : {DType::f32, DType::f64, DType::i32})
                every_collective(comm, rows, cols, dtype);
            every_message(comm);
            churn(comm);
          }) == "");
  }
}

TEST_CASE("cuda: streams wait for events") {
  NEEDS_GPUS(1)
  on(DeviceKind::cuda, [] {
    Device& device = *Device::current();
    const Tensor a = Tensor::of(1, 3, {1, 2, 3}, DType::f32), slow = Tensor::zeros(2000, 2000, DType::f32);
    for (int i = 0; i < 20; ++i) {
      for (int j = 0; j < 5; ++j) matmul(slow, slow);
      add_to(a, a);
      const Event ready = device.record();
      Tensor copy = empty_like(a);
      const Event allocated = device.record();
      {
        const StreamScope scope(device, Stream::communication);
        device.wait(ready);
        device.wait(allocated);
        copy.copy_from(a);
        device.wait(device.record());
      }
      device.synchronize();
      CHECK(copy.values()[2] == 3 * std::pow(2, i + 1));
    }
  });
}

TEST_CASE("nccl: every collective and message, one GPU a rank") {
  NEEDS_GPUS(1)
  if (!nccl::built()) {
    MESSAGE("skipped: this build has no NCCL");
    return;
  }
  for (int n = 1; n <= std::min(8, cuda_device_count()); ++n)
    for (const bool verify : {true, false}) {
      CAPTURE(n);
      CAPTURE(verify);
      LaunchOptions options = gpus(n, Transport::nccl);
      options.verify = verify;
      CHECK(said(options, [](Communicator& comm) {
              for (const auto& [rows, cols] : {std::pair{1, 1}, {0, 3}, {17, 61}})
                for (const DType dtype : {DType::f32, DType::f64, DType::i32})
                  every_collective(comm, rows, cols, dtype);
              every_message(comm);
              churn(comm);
              const auto half = comm.split(comm.rank() % 2, -comm.rank(), "half");
              const auto first = half->split(half->rank() == 0 ? 0 : -1, 0, "first of half");
              expect_eq(first != nullptr, half->rank() == 0, "color -1 gives none");
              every_collective(*half, 3, 5, DType::f32);
              every_message(*half);
            }) == "");
    }
}

TEST_CASE("nccl: wrong programs end, and say what every rank was doing") {
  NEEDS_GPUS(2)
  if (!nccl::built()) {
    MESSAGE("skipped: this build has no NCCL");
    return;
  }
  LaunchOptions options = gpus(2, Transport::nccl);
  options.timeout = std::chrono::seconds(2);
  const auto zeros = [](std::int64_t n) { return Tensor::zeros(1, n, DType::f32); };
  CHECK(
      contains(said(options, [&](Communicator& c) { c.all_reduce(zeros(8 + c.rank())); }),
               "the calls do not match: rank 0 calls all_reduce of 1 x 8 f32 in group world (call 1); rank 1 "
               "calls all_reduce of 1 x 9 f32 in group world (call 1)"));
  CHECK(said(options, [&](Communicator& c) {
          if (c.rank() == 1) throw UsageError("rank 1 is unwell");
          c.all_reduce(zeros(8));
        }) == "rank 1 is unwell");
  const std::string circle = said(options, [&](Communicator& c) { c.send(zeros(1 << 20), 1 - c.rank()); });
  CHECK(contains(circle,
                 "no progress for 2 s: rank 0 waits in send of 1 x 1048576 f32 to rank 1 in group "
                 "world (call 1)"));
  CHECK(contains(said(options,
                      [&](Communicator& c) {
                        if (c.rank() == 0) c.recv(zeros(8), 1);
                      }),
                 "rank 0 waits in recv of 1 x 8 f32 from rank 1 in group world (call 1)"));
}
