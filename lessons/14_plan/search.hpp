// All cuts of a model over so many devices, the fastest that fit, and why the others lose.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <set>

#include "14_plan/estimate.hpp"

namespace tessera::plan {

/// What the question fixes of a cut. What has no value is searched.
struct Fixed {
  std::optional<int> tp, cp, pp, dp, ep, chunks, zero;
  std::optional<std::int64_t> microbatch;
  std::optional<bool> sequence_parallel;
  std::optional<Recompute> recompute;
  std::optional<pipeline::Schedule> schedule;
  std::optional<gpt::Way> way;
  bool overlap = true, scatter_gather = false;
};

/// The divisors of a number, up to `most`.
inline std::vector<int> divisors(std::int64_t number, std::int64_t most) {
  std::vector<int> found;
  for (std::int64_t n = 1; n <= std::min(number, most); ++n)
    if (number % n == 0) found.push_back(static_cast<int>(n));
  return found;
}

/// What is fixed, else all.
template <class T>
std::vector<T> choices(const std::optional<T>& fixed, std::vector<T> all) {
  return fixed ? std::vector<T>{*fixed} : all;
}

// begin search
/// Calls visit(cut) for every cut of the devices that agrees with what is fixed. tp stays inside a machine,
/// unless it is fixed: its sums are part of every layer.
template <class Visit>
void for_cuts(const Question& asked, const Fixed& fixed, const Visit& visit) {
  const int n = asked.devices;
  const bool long_text = asked.model.seq() >= 8192;
  std::vector<int> all_chunks = {1, 2, 3, 4, 6, 8};  // more than one: the interleaved schedule
  if (fixed.schedule == pipeline::Schedule::interleaved)
    all_chunks.erase(all_chunks.begin());
  else if (fixed.schedule)
    all_chunks = {1};
  for (const int tp : choices(fixed.tp, divisors(n, asked.machine.devices))) {
    if (n % tp != 0) continue;
    for (const int cp : choices(fixed.cp, divisors(n / tp, long_text ? 16 : 1))) {
      if (n / tp % cp != 0) continue;
      for (const int pp : choices(fixed.pp, divisors(n / (tp * cp), asked.model.layers))) {
        if (n / (tp * cp) % pp != 0) continue;
        for (const int ep :
             choices(fixed.ep, divisors(n / (tp * pp), std::max<std::int64_t>(1, asked.model.experts)))) {
          const int dp = n / (tp * cp * pp);
          if (fixed.dp && *fixed.dp != dp) continue;
          Cut cut;
          cut.sizes = {tp, pp, dp, cp, ep};
          cut.overlap = fixed.overlap, cut.scatter_gather = fixed.scatter_gather;
          cut.schedule = fixed.schedule.value_or(cut.schedule), cut.way = fixed.way.value_or(cut.way);
          for (const std::int64_t microbatch : choices(fixed.microbatch, {1, 2, 4, 8}))
            for (const int chunks : choices(fixed.chunks, pp > 1 ? all_chunks : std::vector{1}))
              for (const bool sequence_parallel : choices(fixed.sequence_parallel, {tp > 1}))
                for (const Recompute recompute : choices(fixed.recompute, {Recompute::none, Recompute::full}))
                  for (const int zero : choices(
                           fixed.zero, cut.sizes.replicas() > 1 ? std::vector{0, 1, 2, 3} : std::vector{0})) {
                    cut.microbatch = microbatch, cut.chunks = chunks, cut.zero = zero;
                    cut.sequence_parallel = sequence_parallel, cut.recompute = recompute;
                    visit(cut);
                  }
        }
      }
    }
  }
}

constexpr int most_devices = 1 << 20;

struct Answer {
  std::vector<Estimate> best;    // those that fit, the fastest first
  std::vector<Estimate> losers;  // the fastest cut of each of other sizes of the axes: slower, or too large
  int tried = 0;
  std::string impossible;  // why the first cut that was refused cannot be
};

/// Of cuts whose times differ by less than a hundredth, the simpler one comes first.
inline std::tuple<double, int, int, int, double> simplest_of_fastest(const Estimate& e) {
  return {std::floor(std::log(e.seconds()) / 0.01), e.cut.zero, e.cut.sizes.pp, e.cut.chunks, e.seconds()};
}

/// The `count` fastest cuts that fit in memory.
inline Answer search(const Question& asked, const Fixed& fixed, std::size_t count = 5) {
  std::vector<Estimate> all;
  Answer answer;
  for_cuts(asked, fixed, [&](const Cut& cut) {
    try {
      all.push_back(estimate(asked, cut, false));
    } catch (const UsageError& error) {
      if (answer.impossible.empty()) answer.impossible = error.what();
    }
  });
  if (all.empty() && answer.impossible.empty()) {
    std::pair<int, std::string> longest;
    double product = 1;
    for (const auto& [axis, flag] :
         {std::pair{fixed.tp, "--tp"}, {fixed.cp, "--cp"}, {fixed.pp, "--pp"}, {fixed.dp, "--dp"}})
      longest = std::max(longest, {axis.value_or(1), flag}), product *= axis.value_or(1);
    answer.impossible = format(
        "--gpus {} is no multiple of the given --tp, --cp, --pp and --dp: {} would work", asked.devices,
        product <= most_devices ? format("--gpus {:.0f}", product) : longest.second + " 1");
  }
  answer.tried = static_cast<int>(all.size());
  std::ranges::sort(all, {}, simplest_of_fastest);
  std::set<std::vector<int>> seen;
  const auto shape = [](const Estimate& e) {
    return std::vector{e.cut.sizes.tp, e.cut.sizes.pp, e.cut.sizes.dp, e.cut.sizes.cp, e.cut.sizes.ep};
  };
  for (const Estimate& one : all)
    if (one.bytes() <= asked.machine.usable() && answer.best.size() < count && seen.insert(shape(one)).second)
      answer.best.push_back(estimate(asked, one.cut));
  std::ranges::sort(answer.best, {}, simplest_of_fastest);
  for (const Estimate& one : all)
    if (answer.losers.size() < count && seen.insert(shape(one)).second) answer.losers.push_back(one);
  return answer;
}
// end search

// task 14.fastest (function, 3 points, 30 min): the number of the fastest cut, where cut i takes exact(i)
// seconds, and no less than least[i]. exact simulates a step: call it as rarely as you can, since its calls
// are counted. Hint: which cut do you look at first, and when can no other be faster?
inline std::size_t fastest(const std::vector<double>& least,
                           const std::function<double(std::size_t)>& exact) {
  std::vector<std::size_t> order(least.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return least[i]; });
  std::pair<double, std::size_t> best{INFINITY, 0};
  for (const std::size_t i : order) {
    if (least[i] >= best.first) break;  // and so are all that follow
    best = std::min(best, {exact(i), i});
  }
  return best.second;
}
// end task

}  // namespace tessera::plan
