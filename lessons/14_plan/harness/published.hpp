// What published runs reached, and what the planner says of the same cuts.
#pragma once

#include "14_plan/search.hpp"

namespace tessera::plan {

/// A run on DGX A100s, with sequences of 2,048 tokens and 51,200 ids. `reached`: TFLOP/s a GPU where it is
/// above 100, with what is recomputed; else seconds of a step.
struct Published {
  std::string name;
  std::int64_t width, heads, layers;
  int tp, pp, devices;
  std::int64_t batch;
  double reached;
  bool fitted = false;          // the constants were fitted to it
  int chunks = 0;               // 0: the paper does not say, and the planner takes the fastest
  std::int64_t microbatch = 0;  // 0: in the same way
  bool selective = false;       // sequence parallelism and selective recomputation; else full recomputation

  Question question() const {
    Question asked;
    asked.model = {{width, heads, heads, {.seq = 2048}}, layers, 51200, 1, true};
    asked.devices = devices, asked.batch = batch;
    asked.fused_attention = false;
    return asked;
  }
  Fixed fixed() const {
    Fixed fixed;
    fixed.tp = tp, fixed.pp = pp, fixed.zero = 0;
    if (chunks > 0) fixed.chunks = chunks;
    if (microbatch > 0) fixed.microbatch = microbatch;
    fixed.sequence_parallel = selective;
    fixed.recompute = selective ? Recompute::selective : Recompute::full;
    fixed.overlap = false, fixed.scatter_gather = true;
    return fixed;
  }
  /// The planner's speed over that of the run: more than 1 where the planner promises more.
  double ratio(const Efficiency& constants) const {
    Question asked = question();
    asked.reached = constants;
    const Answer answer = search(asked, fixed(), 1);
    if (answer.best.empty()) throw Error(name + ": no cut fits: " + answer.impossible);
    const Estimate& best = answer.best.front();
    return reached > 100 ? best.executed / best.seconds() / devices / 1e12 / reached
                         : reached / best.seconds();
  }
};

/// Narayanan et al. 2021 (PTD-P), tables 1 and 2; Korthikanti et al. 2022, table 5.
inline const std::vector<Published> published = {
    {"1.7B", 2304, 24, 24, 1, 1, 32, 512, 137, true},
    {"3.6B", 3072, 32, 30, 2, 1, 64, 512, 138},
    {"7.5B", 4096, 32, 36, 4, 1, 128, 512, 142, true},
    {"18.4B", 6144, 48, 40, 8, 1, 256, 1024, 135},
    {"39.1B", 8192, 64, 48, 8, 2, 512, 1536, 138, true},
    {"76.1B", 10240, 80, 60, 8, 4, 1024, 1792, 140},
    {"145.6B", 12288, 96, 80, 8, 8, 1536, 2304, 148, true},
    {"310.1B", 16384, 128, 96, 8, 16, 1920, 2160, 155},
    {"529.6B", 20480, 128, 105, 8, 35, 2520, 2520, 163, true},
    {"1008B", 25600, 160, 128, 8, 64, 3072, 3072, 163},
    {"174.6B, 384 GPUs", 12288, 96, 96, 8, 12, 384, 1536, 153},
    {"174.6B, 768", 12288, 96, 96, 8, 12, 768, 1536, 149},
    {"174.6B, 1536", 12288, 96, 96, 8, 12, 1536, 1536, 141},
    {"529.6B, 560", 20480, 128, 105, 8, 35, 560, 2240, 171},
    {"529.6B, 1120", 20480, 128, 105, 8, 35, 1120, 2240, 167},
    {"529.6B, 2240", 20480, 128, 105, 8, 35, 2240, 2240, 159},
    {"22B, full", 6144, 64, 48, 8, 1, 8, 4, 1.42, true, 1, 4},
    {"22B, selective", 6144, 64, 48, 8, 1, 8, 4, 1.10, true, 1, 4, true},
    {"175B, full", 12288, 96, 96, 8, 8, 64, 64, 18.13, false, 3, 1},
    {"175B, selective", 12288, 96, 96, 8, 8, 64, 64, 13.75, false, 3, 1, true},
    {"530B, full", 20480, 128, 105, 8, 35, 280, 280, 49.05, true, 3, 1},
    {"530B, selective", 20480, 128, 105, 8, 35, 280, 280, 37.83, true, 3, 1, true},
    {"1T, full", 25600, 160, 128, 8, 64, 512, 512, 94.42, false, 1, 1},
    {"1T, selective", 25600, 160, 128, 8, 64, 512, 512, 71.49, false, 1, 1, true}};

/// The sum of squared logarithms of the ratios of the fitted rows.
inline double misfit(const Efficiency& constants) {
  double sum = 0;
  for (const Published& one : published)
    if (one.fitted) sum += std::pow(std::log(one.ratio(constants)), 2);
  return sum;
}

/// `product` and `half`, which no data sheet and no measurement of one part gives, with the least misfit: a
/// search with ever finer steps.
inline Efficiency fit() {
  Efficiency best;
  double least = misfit(best);
  for (double step = 0.2; step > 0.002; step /= 2)
    for (bool better = true; better;) {
      better = false;
      for (const auto& [product, half] : {std::pair{1 + step, 1.0},
                                          {1 / (1 + step), 1.0},
                                          {1.0, 1 + 2 * step},
                                          {1.0, 1 / (1 + 2 * step)}}) {
        Efficiency tried = best;
        tried.product *= product, tried.half *= half;
        if (const double sum = misfit(tried); sum < least) best = tried, least = sum, better = true;
      }
    }
  return best;
}

}  // namespace tessera::plan
