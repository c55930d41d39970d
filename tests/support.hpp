// Shared by the tests: run a lambda on N ranks, and catch what a wrong program says.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>

#include "comm/launch.hpp"
#include "messages.hpp"
#include "tensor/error.hpp"

namespace tessera::test {

/// How many times fewer cases the sweeps take under a sanitizer, which makes them ten times slower or more.
#if defined(__SANITIZE_THREAD__)
inline constexpr int thinned = 13;
#elif defined(__SANITIZE_ADDRESS__)
inline constexpr int thinned = 7;
#else
inline constexpr int thinned = 1;
#endif

/// The widest sweeps take every n-th case under a sanitizer, and where TESSERA_SWEEP_EVERY is n, as in
/// ./tessera test without --all. No inner loop has 7 or 13 cases, so that every dtype and tier comes up.
inline int sweep_every() {
  const char* asked = std::getenv("TESSERA_SWEEP_EVERY");
  return std::max(thinned, asked == nullptr ? 1 : std::atoi(asked));
}

/// Counts the cases of a sweep. skips() is true for a case to leave out.
class Thin {
 public:
  bool skips() { return count_++ % every_ != 0; }

 private:
  const int every_ = sweep_every();
  int count_ = 0;
};

inline LaunchOptions ranks(int n) {
  LaunchOptions options;
  options.ranks = n;
  return options;
}

/// Says what this machine lacks for the rest of the test case, and the command that gets it: the case counts
/// as skipped, not as passed. Return after it. The main thread only.
void skip(const std::string& missing);

/// Runs body on n rank threads of the CPU.
inline void on_ranks(int n, const std::function<void(Communicator&)>& body) { launch(ranks(n), body); }

/// The message of what the launch threw, "" where it threw nothing.
inline std::string message_of(int n, const std::function<void(Communicator&)>& body) {
  return message_from([&] { on_ranks(n, body); });
}

/// What body returns on rank 0 of n rank threads.
template <class Body>
auto on_rank_0(int n, const Body& body) {
  std::decay_t<std::invoke_result_t<Body, Communicator&>> found;
  on_ranks(n, [&](Communicator& comm) {
    auto mine = body(comm);
    if (comm.rank() == 0) found = std::move(mine);
  });
  return found;
}

/// Checks that body throws an E, whose message contains each of these.
template <class E = Error, class Body, class... Says>
void refuses(const Body& body, const Says&... says) {
  std::string found = "(nothing was thrown)";
  try {
    body();
  } catch (const E& error) {
    found = error.what();
  }
  for (const std::string& part : {std::string(says)...})
    CHECK_MESSAGE(contains(found, part), "expected: ", part, "; found: ", found);
}

/// Runs body once on each kind of device that is there, as this thread's device.
template <class Body>
void on_every_device(const Body& body) {
  for (const DeviceKind kind : {DeviceKind::cpu, DeviceKind::cuda}) {
    if (kind == DeviceKind::cuda && cuda_device_count() == 0) continue;
    const Device::Scope scope(Device::make(kind));
    CAPTURE(Device::current()->description());
    body();
  }
}

/// A test case that runs once on each kind of device that is there.
#define TEST_CASE_ON_EVERY_DEVICE(name) TESSERA_ON_EVERY_DEVICE(DOCTEST_ANONYMOUS(on_a_device_), name)
#define TESSERA_ON_EVERY_DEVICE(body, name)                   \
  static void body();                                         \
  TEST_CASE(name) { ::tessera::test::on_every_device(body); } \
  static void body()

/// The largest |a - b|, over tensors of equal shapes. Infinity where one is NaN.
inline double largest_difference(const Tensor& a, const Tensor& b) {
  expect_eq(shape(a), shape(b), "shapes");
  const auto x = a.values(), y = b.values();
  double most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = std::abs(x[i] - y[i]);
    if (std::isnan(difference)) return INFINITY;
    most = std::max(most, difference);
  }
  return most;
}

}  // namespace tessera::test
