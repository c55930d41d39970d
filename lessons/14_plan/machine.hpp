// How long a machine takes: for a product of matrices, for a pass over memory, and for what ranks send. This
// follows from a few numbers of the data sheet, and from five constants that say how much of them a program
// reaches. They are the same for all models, cuts and machines: `./tessera plan --fit` shows where they come
// from.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tensor/error.hpp"

namespace tessera::plan {

/// Machines of several devices, as their data sheets say.
struct DataSheet {
  std::string name;
  double flops;            // a device's products of 16-bit numbers, in FLOP/s
  double bandwidth;        // of a device's memory, in bytes/s
  double memory;           // of a device, in bytes
  double inside, between;  // bytes/s each way of a device: to its own machine, to other machines
  int devices;             // of a machine

  /// A tenth is left for what no formula counts: the libraries' own buffers, and gaps between tensors.
  double usable() const { return 0.9 * memory; }
};

inline constexpr double gib = 1024.0 * 1024 * 1024;
/// NVIDIA's data sheets. Between machines a device has an adapter of its own, except on the DGX-1 with V100,
/// where two devices share one of 100 Gbit/s.
inline const std::vector<DataSheet> machines = {{"dgx-v100", 125e12, 0.9e12, 32 * gib, 150e9, 6.25e9, 8},
                                                {"dgx-a100", 312e12, 2.0e12, 80 * gib, 300e9, 25e9, 8},
                                                {"dgx-h100", 989e12, 3.35e12, 80 * gib, 450e9, 50e9, 8}};

/// How much of the data sheet programs reach.
struct Efficiency {
  double product = 0.755;  // of the FLOP/s, in a product of large matrices
  double half = 83;        // a dimension of this length reaches half of that rate
  double memory = 0.8;     // of the memory's bandwidth
  double link = 0.78;      // of a link's bandwidth
  double latency = 5e-6;   // seconds from one rank to the next
};

// begin machine
/// Seconds of a product (rows, inner) (inner, cols), whichever takes longer: its multiply-adds, of which
/// fewer are done a second where a dimension is short, or moving its operands and its result through memory,
/// `number` bytes for each number.
inline double product_seconds(const DataSheet& machine, const Efficiency& reached, double number, double rows,
                              double cols, double inner) {
  double rate = machine.flops * reached.product;
  for (const double length : {rows, cols, inner}) rate *= length / (length + reached.half);
  const double bytes = number * (rows * inner + inner * cols + rows * cols);
  return std::max(2 * rows * cols * inner / rate, bytes / (machine.bandwidth * reached.memory));
}

/// Seconds of reading and writing so many bytes, with little computed on each of them.
inline double pass_seconds(const DataSheet& machine, const Efficiency& reached, double bytes) {
  return bytes / (machine.bandwidth * reached.memory);
}

/// A group whose consecutive ranks are `stride` devices apart, where devices are numbered machine by machine.
struct Link {
  int ranks = 1, stride = 1;

  /// How many of the group share a machine.
  int inside(const DataSheet& machine) const { return std::clamp(machine.devices / stride, 1, ranks); }
  bool crosses(const DataSheet& machine) const { return inside(machine) < ranks; }

  /// Seconds of `calls` collectives in which each rank sends `bytes` in all. A ring gives the bandwidth: one
  /// ring through each adapter of the group's devices in a machine. A tree gives the latency: 2 log2(n) hops.
  double seconds(const DataSheet& machine, const Efficiency& reached, double calls, double bytes) const {
    if (ranks == 1) return 0;
    double rate = machine.inside;
    if (crosses(machine)) rate = std::min(rate, machine.between * inside(machine));
    return calls * 2 * std::ceil(std::log2(ranks)) * reached.latency + bytes / (rate * reached.link);
  }
  /// Seconds of a message to the next rank of the group.
  double message_seconds(const DataSheet& machine, const Efficiency& reached, double bytes) const {
    const double rate = crosses(machine) ? machine.between : machine.inside;
    return reached.latency + bytes / (rate * reached.link);
  }
};
// end machine

}  // namespace tessera::plan
