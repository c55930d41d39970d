#include "06_pipeline/messages.hpp"
#include "06_pipeline/partition.hpp"
#include "06_pipeline/simulate.hpp"
#include "06_pipeline/validate.hpp"
#include "lab.hpp"
#include "plan_text.hpp"

using namespace tessera;
using namespace tessera::pipeline;

namespace {

/// Plans as text: 1F1B; the same with waits; ZB-H1; interleaved.
const std::vector<std::vector<std::string>> plans = {
    {"f00 s00 f10 s10 g00 b00 f20 s20 g10 b10 g20 b20 R00",
     "r00 f00 b00 d00 r10 f10 b10 d10 r20 f20 b20 d20 R00"},
    {"f00 s00 f10 s10 g00 W00 b00 f20 s20 g10 W10 b10 g20 W20 b20 R00",
     "r00 f00 b00 d00 r10 f10 b10 W00 d10 r20 f20 b20 W10 d20 W20 R00"},
    {"f00 s00 f10 s10 f20 s20 g00 i00 w00 g10 i10 w10 g20 i20 w20 R00",
     "r00 f00 s00 r10 f10 s10 g00 i00 d00 r20 f20 s20 g10 i10 d10 w00 g20 i20 d20 w10 w20 R00",
     "r00 f00 i00 d00 r10 f10 i10 d10 r20 f20 i20 d20 w00 w10 w20 R00"},
    {"f00 s00 f10 s10 r01 f01 s01 r11 f11 s11 g01 b01 d01 g11 b11 d11 g00 b00 g10 b10 R00",
     "r00 f00 s00 r10 f10 s10 r01 f01 b01 d01 r11 f11 b11 d11 g00 b00 d00 g10 b10 d10 R00"}};

void out(Trial& t, const std::string& name, const Plan& plan) {
  for (std::size_t r = 0; r < plan.size(); ++r)
    t.words(format("{}, stage {}", name, r), plan[r], [](const Instruction& i) { return text(i); });
}

/// Calls body with each schedule and with sizes that it takes.
void each_schedule(Trial& t,
                   const std::function<void(Schedule, const std::string&, int p, int m, int v)>& body) {
  for (const auto& [schedule, name] : schedule_names) {
    const bool chunks = schedule == Schedule::interleaved;
    const int p = t.size(2, 5), v = chunks ? t.size(1, 3) : 1, m = chunks ? p * t.size(1, 3) : t.size(1, 9);
    body(schedule, format("{}: p {}, m {}, v {}", name, p, m, v), p, m, v);
  }
}

const Task shape_task("06.pattern", [](Trial& t) {
  each_schedule(t, [&](Schedule schedule, const std::string& name, int p, int m, int v) {
    std::vector<std::string> words;
    for (int r = 0; r < p; ++r) {
      const SchedulePattern s = pattern(schedule, r, p, m, v);
      words.push_back(format("stage {}: {}, delay {}", r, s.split ? "split" : "whole", s.delay));
      t.count(format("stage {} holds # activations ({})", r, name), std::min(m * v, s.warm_up + 1 + s.delay));
    }
    t.words(name, words);
  });
});

const Task plan_task("06.plan", [](Trial& t) {
  each_schedule(t, [&](Schedule schedule, const std::string& name, int p, int m, int v) {
    out(t, name, make_plan(schedule, p, m, v));
  });
});

/// How many of its needs an instruction lacks when a drawn set of others is done: of another seed other sets.
const Task needs_task("06.needs", [](Trial& t) {
  constexpr int ops = static_cast<int>(Op::reduce) + 1;
  for (const auto& [at, first, last] :
       {std::tuple{"first", true, false}, {"middle", false, false}, {"last", false, true}}) {
    std::vector<std::string> words;
    for (int op = 0; op < ops; ++op) {
      const std::vector<Op> wanted = needs(static_cast<Op>(op), first, last);
      for (int set = 0; set < 4; ++set) {
        std::string done = "after";
        auto lacks = std::ssize(wanted);
        for (int other = 0; other < ops; ++other) {
          if (t.size(0, 1) == 0) continue;
          done += format(" {}", name(static_cast<Op>(other)));
          lacks -= std::count(wanted.begin(), wanted.end(), static_cast<Op>(other));
        }
        words.push_back(format("{}: {} lacks {}", done, name(static_cast<Op>(op)), lacks));
      }
    }
    t.words(format("{} stage", at), words);
  }
});

const Task posted_task("06.asynchronous", [](Trial& t) {
  Plan plan = plan_of(plans[std::vector{0, 2, 3, 0}[t.ranks() - 1]]);
  const int shift = t.size(0, 5);  // microbatches by other numbers
  for (Instructions& list : plan)
    for (Instruction& i : list)
      if (i.op != Op::reduce) i.microbatch += shift;
  out(t, "with waits", with_asynchronous_sends(plan));
});

const Task balance_task("06.balance", [](Trial& t) {
  const int parts = t.size(1, 6), layers = parts + t.size(0, 12);
  const LayerCosts costs{0.5 * t.size(0, 8), 1, 0.5 * t.size(0, 12)};
  const Partition found = balanced_partition(layers, parts, costs);
  std::int64_t sum = 0, least = layers;
  for (const std::int64_t n : found) sum += n, least = std::min(least, n);
  t.words(format("{} layers, {} parts, embedding {}, head {}", layers, parts, costs.embedding, costs.head),
          {format("{} parts, {} layers, {} empty", found.size(), sum, least > 0 ? "none" : "one"),
           format("the slowest takes {}", costs.slowest(found))});
});

const Task simulate_task("06.simulate", [](Trial& t) {
  for (std::size_t number = 0; number < plans.size(); ++number) {
    const Plan plan = plan_of(plans[number]);
    Costs costs;
    for (std::size_t at = 0; at < 2 * plan.size(); ++at)
      for (auto* of : {&costs.forward, &costs.backward_input, &costs.backward_weight})
        of->push_back(0.5 * t.size(1, 5));
    costs.message = 0.25 * t.size(0, 4);
    const Timeline timeline = simulate(plan, costs);
    for (std::size_t r = 0; r < timeline.stages.size(); ++r)
      t.words(format("plan {}, stage {}", number, r), timeline.stages[r],
              [](const Step& step) { return format("{}: {} to {}", text(step), step.begin, step.end); });
  }
});

}  // namespace
