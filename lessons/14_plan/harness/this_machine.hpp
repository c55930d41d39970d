// --machine this: what the present machine can do, measured with short runs.
#pragma once

#include "14_plan/cut.hpp"
#include "comm/launch.hpp"
#include "ops/ops.hpp"

namespace tessera::plan {

/// Seconds of the shortest of some runs, since what else the machine does only makes a run longer.
/// Collective.
inline double shortest(Communicator& comm, const std::function<void()>& body) {
  double best = INFINITY, all = 0;
  for (int run = 0; run < 40 && (run < 4 || all < 0.1); ++run) {
    comm.barrier();
    const double began = comm.journal().now();
    body();
    Device::current()->synchronize();
    const double took = sum_over(comm, comm.journal().now() - began) / comm.size();
    best = std::min(best, took), all += took;
  }
  return best;
}

/// Measures asked.machine and asked.reached on `ranks` ranks that compute at the same time.
inline void measure(Question& asked, LaunchOptions options, int ranks) {
  options.ranks = ranks;
  asked.machine = {"this machine", 0, 0, double(available_memory()) / ranks, INFINITY, INFINITY, ranks};
  asked.reached.product = asked.reached.memory = asked.reached.link = 1;
  launch(options, [&](Communicator& comm) {
    const auto dtype = asked.weight_bytes == 8 ? DType::f64 : DType::f32;
    const auto ones = [&](std::int64_t rows, std::int64_t cols) { return Tensor::zeros(rows, cols, dtype); };
    // Products of two sizes: L^3 multiply-adds at the rate R (L / (L + half))^3.
    const double large = 768, small = 96;
    const auto rate = [&](double n) {
      const Tensor a = ones(n, n), b = ones(n, n);
      return 2 * n * n * n / shortest(comm, [&] { matmul(a, b); });
    };
    const double at_large = rate(large), slower = std::cbrt(std::min(1.0, rate(small) / at_large)),
                 half = small * large * (1 - slower) / std::max(1.0, slower * large - small);
    // A mean of kernels that pass over memory: a gelu computes most on each number, a sum least.
    const Tensor x = ones(1024, 512), row = ones(1, 512);
    const double passes = shortest(comm, [&] { gelu(x), layer_norm(x, row, row), add(x, x); }),
                 bytes = 7.0 * x.bytes();
    // A sum of next to nothing shows the latency, a larger one the bandwidth.
    const Tensor little = ones(1, 16), much = ones(512, 512);
    const double wait = ranks > 1 ? shortest(comm, [&] { comm.all_reduce(little); }) : 0,
                 sum = ranks > 1 ? shortest(comm, [&] { comm.all_reduce(much); }) : 0;
    if (comm.rank() != 0) return;
    asked.reached.half = half;
    asked.machine.flops = at_large * std::pow((large + half) / large, 3);
    asked.machine.bandwidth = bytes / passes;
    if (ranks == 1) return;
    asked.reached.latency = wait / (2 * std::ceil(std::log2(ranks)));
    asked.machine.inside = asked.machine.between =
        2.0 * (ranks - 1) / ranks * much.bytes() / std::max(sum - wait, 1e-9);
  });
}

}  // namespace tessera::plan
