// What a cut costs: memory and traffic by the formulas that lesson 08 proves with its counters, and time by
// work.hpp and machine.hpp on the simulator of lesson 06.
#pragma once

#include "06_pipeline/simulate.hpp"
#include "08_three_d/activations.hpp"
#include "14_plan/traffic.hpp"
#include "14_plan/work.hpp"

namespace tessera::plan {

/// Bytes or seconds by what they are for.
using Parts = std::vector<std::pair<std::string, double>>;
inline double sum(const Parts& parts) {
  double all = 0;
  for (const auto& [name, part] : parts) all += part;
  return all;
}

struct Estimate {
  Cut cut;
  int microbatches = 1;
  Parts memory;  // bytes of the fullest stage
  std::vector<AxisTraffic> traffic;
  Parts time;                      // seconds of a step
  double flops = 0, executed = 0;  // of a step: the model's, and with what is recomputed
  int devices = 1;

  double bytes() const { return sum(memory); }
  double seconds() const { return sum(time); }
};

/// Bytes of the activations that a rank of this stage keeps, and the most that it needs beside them at once.
inline std::pair<double, double> activations_of(const Question& asked, const Cut& cut,
                                                const three_d::Config& run, const pipeline::Plan& schedule,
                                                int stage) {
  const three_d::TrainingConfig& t = run.training;
  const int p = cut.sizes.pp, all = p * t.chunks, tp = cut.sizes.tp;
  const std::int64_t message = t.model.own_rows(tp) * t.model.width();
  std::vector<gpt::KeptActivations> chunks;
  std::int64_t beside = 0;
  for (int c = 0; c < t.chunks; ++c) {
    const int at = pipeline::virtual_stage(c, stage, p);
    const Range layers = pipeline::layers_of(t.partition(p), at);
    chunks.push_back(kept_of(asked, t.model, layers, at == all - 1, tp));
    const auto largest = kept_of(asked, t.model, {layers.end - 1, layers.end}, false, tp);
    beside =
        std::max(beside, largest.backward_input + (cut.recompute == Recompute::full ? largest.forward : 0));
    if (cut.recompute != Recompute::full) continue;
    const auto blocks = kept_of(asked, t.model, layers, false, tp);
    chunks.back().forward += layers.size() * message - blocks.forward;
    chunks.back().backward_input -= blocks.backward_input;
  }
  const auto kept = three_d::most_held(schedule[static_cast<std::size_t>(stage)], chunks, message,
                                       t.model.rows() * t.model.width(), stage == 0, stage == p - 1,
                                       asked.wide_bytes / asked.weight_bytes);
  return {static_cast<double>(kept * asked.weight_bytes), static_cast<double>(beside * asked.weight_bytes)};
}

// begin memory
// task 14.memory (function, 3 points, 40 min): the bytes that a rank of stage `stage` holds, as "weights",
// "gradients", "optimiser", "activations" and "buffers". Hint: expect_state tells a Ledger the first three;
// activations_of knows the other two.
inline Parts memory_of(const Question& asked, const Cut& cut, const three_d::Config& run,
                       const pipeline::Plan& schedule, int stage) {
  Ledger ledger(asked);
  three_d::expect_state(ledger, {cut.sizes, 0, stage}, run.training, "");
  const auto [kept, beside] = activations_of(asked, cut, run, schedule, stage);
  return {{"weights", ledger.memory[MemoryKind::weight]},
          {"gradients", ledger.memory[MemoryKind::gradient]},
          {"optimiser", ledger.memory[MemoryKind::optimizer]},
          {"activations", kept},
          {"buffers", beside}};
}
// end task
// end memory

// begin estimate
/// The seconds that each virtual stage computes on a microbatch.
inline std::vector<Work> work_of(const Question& asked, const Cut& cut, const three_d::TrainingConfig& t) {
  const pipeline::Partition partition = t.partition(cut.sizes.pp);
  const auto block = [&](bool experts) {
    return block_work(asked, t.model, cut.sizes.tp, cut.recompute, experts);
  };
  const Work dense = block(false), sparse = t.model.experts > 0 ? block(true) : Work{};
  std::vector<Work> all(partition.size());
  for (std::size_t at = 0; at < all.size(); ++at) {
    const Range layers = pipeline::layers_of(partition, static_cast<int>(at));
    for (std::int64_t l = layers.begin; l < layers.end; ++l)
      all[at] = all[at] + (t.model.has_experts(l) ? sparse : dense);
  }
  all.back() = all.back() + head_work(asked, t.model, cut.sizes.tp);
  return all;
}

/// The instructions of all stages for the first of m microbatches: as many as fill the pipeline, since what
/// follows is alike; all of them under GPipe, which keeps the activations of all.
inline const pipeline::Plan& schedule_of(pipeline::Schedule schedule, int p, int m, int v) {
  thread_local std::map<std::tuple<pipeline::Schedule, int, int, int>, pipeline::Plan>
      made;  // a search asks often
  const int few = schedule == pipeline::Schedule::gpipe ? m : std::min(m, 2 * p);
  pipeline::Plan& plan = made[{schedule, p, few, v}];
  if (plan.empty()) plan = pipeline::with_asynchronous_sends(make_plan(schedule, p, few, v));
  return plan;
}

// begin pipeline
// task 14.pipeline (function, 3 points, 30 min): the seconds from the first forward to the last backward of m
// microbatches, where `schedule` has the first ones. `busy`: how long the slowest stage computes on one, its
// messages included. Hint: lesson 06 simulates `schedule`; how much later is each further microbatch done?
inline double pipeline_seconds(const pipeline::Plan& schedule, const pipeline::Costs& costs, int m,
                               double busy) {
  const pipeline::Timeline timeline = simulate(schedule, costs);
  return timeline.makespan() + (m - timeline.microbatches()) * busy;
}
// end task
// end pipeline

inline constexpr int code_line = __LINE__ + 2;
/// A step of the whole batch. `simulated` false: the bubble by its closed form, which is faster.
inline Estimate estimate(const Question& asked, const Cut& cut, bool simulated = true) {
  const three_d::Config run = run_of(asked, cut);
  const three_d::TrainingConfig& t = run.training;
  const int p = cut.sizes.pp, v = t.chunks, m = t.microbatches;
  const pipeline::Plan& schedule = schedule_of(t.schedule, p, m, v);
  Estimate found{cut, m, memory_of(asked, cut, run, schedule, 0), traffic_of(asked, cut, run), {}};
  // The first stage has most activations in flight, the last one has the head.
  if (const Parts last = memory_of(asked, cut, run, schedule, p - 1); sum(last) > found.bytes())
    found.memory = last;
  found.devices = cut.sizes.ranks();
  found.flops = step_flops(asked.model, asked.batch, false);
  found.executed = step_flops(asked.model, asked.batch, cut.recompute == Recompute::full);

  std::map<std::string, double> sent;  // seconds of a step, by axis and phase
  three_d::Config waited_for = run;
  waited_for.training.model.regather = false;  // the second gather is hidden behind dX
  for (const AxisTraffic& one : traffic_of(asked, cut, waited_for))
    sent[one.axis + " " + one.phase] += one.seconds;
  // Seconds of a microbatch in a chunk: how long all ranks wait for what is sent in its layers, and for a
  // message to the next stage. A ring's messages travel while attention computes.
  const auto inside = [&](const std::string& axis, double hidden = 0) {
    const double forward = std::max(0.0, sent[axis + " fwd"] / (m * v) - hidden),
                 backward = std::max(0.0, sent[axis + " bwd"] / (m * v) - 2 * hidden);
    return std::pair{forward, backward + (cut.recompute == Recompute::full ? forward : 0)};
  };
  const double beside = t.model.way == gpt::Way::ring ? attention_seconds(asked, t.model, cut.sizes.tp) *
                                                            static_cast<double>(t.model.layers) / (p * v)
                                                      : 0;
  const auto [tp_forward, tp_backward] = inside("tp");
  const auto [cp_forward, cp_backward] = inside("cp", beside);
  const auto [ep_forward, ep_backward] = inside("ep");
  const double message = p > 1 ? (sent["pp fwd"] + sent["pp bwd"]) / (2 * m * v) : 0;

  const std::vector<Work> work = work_of(asked, cut, t);
  pipeline::Costs costs{{}, {}, {}, message};
  std::vector<Seconds> computed(static_cast<std::size_t>(p));  // of each stage, on a microbatch
  for (std::size_t at = 0; at < work.size(); ++at) {
    costs.forward.push_back(work[at].forward.all() + tp_forward + cp_forward + ep_forward);
    costs.backward_input.push_back(work[at].backward_input.all() + tp_backward + cp_backward + ep_backward);
    costs.backward_weight.push_back(work[at].backward_weight.all());
    Seconds& stage = computed[at % static_cast<std::size_t>(p)];
    stage = stage + work[at].forward + work[at].backward_input + work[at].backward_weight;
  }
  const Seconds slowest = std::ranges::max(computed, {}, &Seconds::all);
  const double tp = v * (tp_forward + tp_backward), cp = v * (cp_forward + cp_backward),
               ep = v * (ep_forward + ep_backward), messages = 2 * v * message,
               busy = slowest.all() + tp + cp + ep + messages;
  const double pipeline = simulated ? pipeline_seconds(schedule, costs, m, busy)
                                    : m * busy / (1 - pipeline::bubble_predicted(t.schedule, p, m, v));

  // The sums of gradients begin in the last backward; stage 3 of ZeRO brings weights beside all computation.
  double sums = 0, weights = 0, norms = 0;
  for (const std::string axis : {cut.sizes.cp > 1 ? "dp_cp" : "dp", "expert_dp"})
    sums += sent[axis + " bwd"], weights += sent[axis + " step"] + sent[axis + " fwd"];
  for (const auto& [where, seconds] : sent)
    if (where.ends_with(" norm")) norms += seconds;
  if (cut.overlap) sums = std::max(0.0, sums - 2.0 / 3 * slowest.all());
  if (cut.overlap && cut.zero == 3) weights = std::max(0.0, weights - m * slowest.all());
  // An optimiser reads the gradient, reads and writes a master and two moments, and writes the weight.
  const double elements = found.memory[2].second / (3.0 * static_cast<double>(asked.wide_bytes)),
               optimizer = elements * static_cast<double>(asked.weight_bytes + 7 * asked.wide_bytes);
  found.time = {{"products", m * slowest.products},
                {"other kernels", m * slowest.passes},
                {"tp", m * tp},
                {"cp", m * cp},
                {"ep", m * ep},
                {"pp", m * messages},
                {"bubble", std::max(0.0, pipeline - m * busy)},
                {"dp", sums + weights + sent["embedding bwd"]},
                {"optimiser", pass_seconds(asked.machine, asked.reached, optimizer) + norms}};
  return found;
}
// end estimate

}  // namespace tessera::plan
