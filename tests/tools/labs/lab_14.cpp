#include "14_plan/search.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::plan;

namespace {

/// A small model and a cut of it that fits together.
std::pair<Question, Cut> draw(Trial& t) {
  Question asked;
  const int tp = t.size(1, 2), pp = t.size(1, 3), dp = t.size(1, 3), chunks = pp > 1 ? t.size(1, 2) : 1;
  asked.model.attention = {8 * tp, 2 * tp, 2 * tp, {}};
  asked.model.attention.options.seq = 4 * tp;
  asked.model.layers = pp * chunks * t.size(1, 2), asked.model.vocabulary = 10 * tp, asked.model.tied = true;
  asked.devices = tp * pp * dp;
  Cut cut;
  cut.sizes = {tp, pp, dp};
  cut.chunks = chunks, cut.zero = t.size(0, 3), cut.microbatch = t.size(1, 2);
  cut.sequence_parallel = tp > 1;
  cut.recompute = t.size(0, 1) == 1 ? Recompute::full : Recompute::none;
  asked.batch = dp * cut.microbatch * pp * t.size(1, 4);
  return {asked, cut};
}

std::string text(const Cut& c) {
  return format("tp {}, pp {}, dp {}, {} chunks, ZeRO {}, {}", c.sizes.tp, c.sizes.pp, c.sizes.dp, c.chunks,
                c.zero, c.recompute == Recompute::full ? "recomputed" : "kept");
}

const Task memory("14.memory", [](Trial& t) {
  for (int i = 0; i < 6; ++i) {
    const auto [asked, cut] = draw(t);
    const three_d::Config run = run_of(asked, cut);
    const int p = cut.sizes.pp;
    const auto& schedule =
        schedule_of(run.training.schedule, p, run.training.microbatches, run.training.chunks);
    std::vector<std::string> words;
    for (const int stage : {0, p - 1})
      for (const auto& [name, bytes] : memory_of(asked, cut, run, schedule, stage))
        words.push_back(format("stage {}: {:.0f} B of {}", stage, bytes, name));
    t.words(text(cut), words);
  }
});

const Task pipeline("14.pipeline", [](Trial& t) {
  for (int i = 0; i < 8; ++i) {
    const int p = t.size(1, 4), v = p > 1 ? t.size(1, 2) : 1, m = p * t.size(1, 6);
    const auto kind = v > 1 ? pipeline::Schedule::interleaved : pipeline::Schedule::one_f_one_b;
    const double forward = t.size(1, 9), backward = t.size(1, 9), busy = v * (forward + backward);
    const auto costs = pipeline::Costs::equal(p * v, forward, backward, 0);
    t.words(format("{} stages, {} chunks, {} microbatches", p, v, m),
            {format("{:.6g} s", pipeline_seconds(schedule_of(kind, p, m, v), costs, m, busy))});
  }
});

const Task one("14.fastest", [](Trial& t) {
  const int n = 4 * t.size();
  auto least = t.in("seconds by the closed form", 1, n).values();
  for (double& seconds : least) seconds += 1;
  const auto more = t.in("seconds more", 1, n).values();
  int calls = 0;
  const std::size_t found = fastest(least, [&](std::size_t i) {
    ++calls;
    return least.at(i) + 0.2 * (1 + more.at(i));
  });
  t.words(format("of {} cuts", n), {format("number {} is the fastest", found)});
  t.count("# cuts are simulated", calls);
});

}  // namespace
