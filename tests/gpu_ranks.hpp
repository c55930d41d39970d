// Shared by the tests of GPUs: what a case needs, and ranks on GPUs that run the conformance suite.
#pragma once

#include <cmath>
#include <string>

#include "comm_suite.hpp"
#include "ops/ops.hpp"
#include "support.hpp"

namespace tessera::test {

#define NEEDS_GPUS(n) \
  if (cuda_device_count() < (n)) return skip(format("{} GPU(s), found {}", n, cuda_device_count()));

#define NEEDS_NCCL(n) \
  NEEDS_GPUS(n)       \
  if (!nccl::built()) return skip("a build with NCCL");

inline LaunchOptions gpus(int n, Transport transport) {
  LaunchOptions options = ranks(n);
  options.device = DeviceKind::cuda;
  options.transport = transport;
  options.timeout = std::chrono::seconds(20);
  return options;
}

/// The transports that two ranks on the GPUs of this machine can use.
inline std::vector<Transport> transports_of_two() {
  if (!nccl::built() || cuda_device_count() < 2) return {Transport::threads};
  return {Transport::threads, Transport::nccl};
}

/// Gives the GPU work for `wanted` seconds, and returns at once. It launches few kernels, since a full queue
/// stops the host.
inline void occupy_gpu(double wanted) {
  Device& device = *Device::current();
  double seconds = 0;
  Tensor slow;
  for (std::int64_t n = 256; seconds < 0.005; n *= 2) {
    slow = Tensor::zeros(n, n, DType::f64);
    const Event begin = device.mark();
    matmul(slow, slow);
    seconds = device.seconds_between(begin, device.mark());
  }
  for (double queued = 0; queued < wanted; queued += seconds) matmul(slow, slow);
}

/// Memory that goes back to the pool while the GPU still works on it must not be handed out too early.
inline void churn(Communicator& comm) {
  const std::int64_t width = 400;
  const int n = comm.size();
  std::int64_t warm = 0;
  for (int step = 0; step < 10; ++step) {
    Tensor x = Tensor::of(1, width, std::vector<double>(width, comm.rank() + step), DType::f32);
    for (int layer = 0; layer < 4; ++layer) {
      const Tensor zeros = Tensor::zeros(width, width, DType::f32);
      x = comm.all_reduce(add(x, matmul(x, matmul(zeros, zeros))));  // products that take a while
    }
    const double sum = std::pow(n, 3) * (n * step + n * (n - 1) / 2);
    require_equal(x, std::vector<double>(width, sum), "sums in a chain");
    if (step == 2) warm = x.device()->system_allocations();
    if (step > 2) expect_eq(x.device()->system_allocations(), warm, "system allocations in steady state");
  }
}

inline void conform(Communicator& comm) {
  for (const Program& program : programs) program.run(comm);
  churn(comm);
}

/// The message of what the launch threw, "" where it threw nothing.
inline std::string said(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  return message_from([&] { launch(options, body); });
}

}  // namespace tessera::test
