// What needs a GPU: its mathematics against the CPU's, ranks that share one, its memory. Without a GPU only
// the refusals are tested, and each other case says that it was skipped.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "every_function.hpp"
#include "gpu_ranks.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// A (rows, cols) view with rows that lie `apart` elements apart, the same elements on every device.
Tensor view(const char* name, std::int64_t rows, std::int64_t cols, std::int64_t apart, DType dtype,
            Fill fill, double scale) {
  return generate(7, name, Slice::whole(rows + 1, cols + apart), dtype, fill, scale)
      .row_range(1, rows + 1)
      .column_range(apart, cols + apart);
}

/// Every function of ops.hpp on views of (n, f) and (f, m).
Results all_ops(std::int64_t n, std::int64_t f, std::int64_t m, std::int64_t apart, DType dtype, Fill fill,
                double scale) {
  const auto make = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    return view(name, rows, cols, apart, dtype, fill, scale);
  };
  const Tensor x = make("x", n, f), a = make("a", f, m), dy = make("dy", n, m), sum = make("sum", f, m);
  Results results = every_function(n, f, make, fill == Fill::integer);
  add_matmul(sum, t(x), dy);
  for (const Tensor& product : {matmul(x, a), matmul(x, t(make("at", m, f))), matmul(t(x), dy), sum})
    results.push_back(product.values());
  return results;
}

template <class F>
auto on(DeviceKind kind, const F& body) {
  const Device::Scope scope(Device::make(kind));
  return body();
}

// Rows of 1, 4, 16 and 32 warps, no rows, 100,000 rows; sums over rows in one slice and in
// several; widths that four divides and others. Rows that lie 0 and 4 elements apart may be loaded four
// elements at a time.
constexpr std::int64_t shapes[][3] = {{1, 1, 1},   {7, 33, 5},    {300, 65, 17}, {129, 1000, 3},
                                      {2, 3, 600}, {3, 2500, 4},  {4, 700, 3},   {2, 4500, 3},
                                      {0, 7, 4},   {100000, 3, 2}};

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
      for (const std::int64_t apart : {0, 3, 4}) {
        if (n > 1000 && (apart > 0 || dtype == DType::f64)) continue;
        for (const Fill fill : {Fill::integer, Fill::uniform}) {
          INFO(n, ", ", f, ", ", m, ", rows ", apart, " apart, ", name(dtype));
          const double scale = fill == Fill::integer ? 3 : 2.5;
          const auto compute = [&, n = n, f = f, m = m] {
            return all_ops(n, f, m, apart, dtype, fill, scale);
          };
          const Results cpu = on(DeviceKind::cpu, compute), gpu = on(DeviceKind::cuda, compute);
          CHECK(gpu == on(DeviceKind::cuda, compute));
          REQUIRE(cpu.size() == gpu.size());
          // Two orders of the same sum of k terms differ by at most k u times the sum of the absolute terms;
          // 25 u of gelu's slope is the largest constant of the others (adamw divides by sqrt(v) of 0.03
          // y^2).
          const double u = dtype == DType::f32 ? 0x1p-24 : 0x1p-53;
          const double terms = static_cast<double>(std::max({n, f, m, std::int64_t{50}}));
          const double bound = fill == Fill::integer ? 0 : 2 * terms * u * terms * scale * scale;
          for (std::size_t k = 0; k < cpu.size(); ++k) {
            CAPTURE(k);
            REQUIRE(cpu[k].size() == gpu[k].size());
            double error = 0;
            for (std::size_t i = 0; i < cpu[k].size(); ++i) {
              const double difference = std::abs(cpu[k][i] - gpu[k][i]);
              if (!(difference <= error)) error = std::isnan(difference) ? INFINITY : difference;
            }
            CHECK(error <= bound);
          }
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
    if (thinned > 1 && n > 3) continue;  // a sanitizer makes it ten times slower
    CAPTURE(n);
    CHECK(said(gpus(n, Transport::threads), conform) == "");
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

TEST_CASE("a device gives idle blocks of other sizes back before it is out of memory") {
  struct Small final : Device {
    Small() : Device(DeviceKind::cpu, 0) {}
    ~Small() override { release_pool(); }
    std::string description() const override { return "1000 KiB"; }
    void copy(void*, std::size_t, const void*, std::size_t, std::size_t, std::size_t) override {}
    void zero(void*, std::size_t, std::size_t, std::size_t) override {}
    void* system_allocate(std::size_t bytes) override {
      if (held + bytes > 1000 * 1024) return nullptr;
      held += bytes;
      return std::malloc(bytes);
    }
    void system_release(void* block, std::size_t bytes) override {
      held -= bytes;
      std::free(block);
    }
    std::string out_of_memory(std::size_t) const override { return "too small"; }
    std::size_t held = 0;
  };
  Small device;
  device.release(device.allocate(600 * 1024), 600 * 1024);
  void* block = device.allocate(700 * 1024);
  CHECK(device.held == 700 * 1024);
  CHECK(message_from([&] { device.allocate(400 * 1024); }) == "too small");
  device.release(block, 700 * 1024);
}

TEST_CASE("cuda: the pool gives idle blocks of other sizes back to the GPU") {
  NEEDS_GPUS(1)
  const auto device = Device::make(DeviceKind::cuda);
  std::size_t most = std::size_t{1} << 42;
  void* block = nullptr;
  for (; !block && most > 1024; most /= 2) {
    try {
      block = device->allocate(most);
    } catch (const UsageError&) {
      continue;
    }
    break;
  }
  REQUIRE(block != nullptr);
  device->release(block, most);
  const std::size_t half = most / 2 - 256;  // two of these do not fit beside the idle block
  void *first = device->allocate(half), *second = device->allocate(half);
  device->release(first, half);
  device->release(second, half);
}

TEST_CASE("cuda: a trace tells when the GPU worked, not when the host asked for it") {
  NEEDS_GPUS(1)
  for (const Transport transport : transports_of_two()) {
    CAPTURE(name(transport));
    LaunchOptions options = gpus(2, transport);
    options.trace = true;
    CHECK(said(options, [](Communicator& comm) {
            const Tensor slow = Tensor::zeros(700, 700, DType::f64), x = zeros(8);
            Device& device = *Device::current();
            const auto products = [&] {
              for (int i = 0; i < 10; ++i) matmul(slow, slow);
            };
            products();
            comm.barrier();
            double before = 0, all = 0;  // as the GPU's own marks say, whatever else it does meanwhile
            {
              const Phase phase = comm.phase("bwd");
              const Event first = device.mark();
              products();
              const Event middle = device.mark();
              Request sum = comm.iall_reduce(x);  // the host is here at once
              products();
              sum.wait();
              const Event last = device.mark();
              before = device.seconds_between(first, middle), all = device.seconds_between(first, last);
            }
            std::map<std::string, Span> spans;
            for (const Span& span : comm.journal().spans()) spans[span.name] = span;
            const Span phase = spans.at("bwd"), sum = spans.at("all_reduce of 1 x 8 f32 in group world");
            expect(phase.end - phase.begin > 0.9 * all, "the phase lasts as long as the GPU's work");
            expect(sum.begin - phase.begin > 0.9 * before, "the sum starts after the work before it");
            expect(sum.begin <= sum.end && sum.end < phase.end + 1e-4, "the sum ends within the phase");
          }) == "");
  }
}
