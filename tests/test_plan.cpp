// Lesson 14: the planner's times are those of published runs, and its bytes are those that lesson 08 counts.
#include <algorithm>

#include "14_plan/harness/command_line.hpp"
#include "14_plan/harness/proof.hpp"
#include "models.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::plan;

namespace {

Question gpt3(int devices, std::int64_t batch) {
  Question asked;
  asked.model.attention = {12288, 96, 96, {}};
  asked.model.attention.options.seq = 2048;
  asked.model.layers = 96, asked.model.vocabulary = 51200, asked.model.tied = true;
  asked.devices = devices, asked.batch = batch;
  return asked;
}

double part(const Parts& parts, const std::string& name) {
  return std::ranges::find(parts, name, &Parts::value_type::first)->second;
}

}  // namespace

TEST_CASE("lesson 14: memory and bytes are those that lesson 08 counts, at 1 to 8 ranks") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (thin.skips()) continue;
      INFO(ranks, " ranks, ", name(dtype));
      const Outcome outcome = proven(ranks, {Tier::floating, dtype, 3},
                                     [](Proof& proof, Communicator& world) { check_counted(proof, world); });
      CHECK(faults(outcome) == "");
      CHECK(outcome.checks.size() == (ranks == 8 ? 12 : 10));
    }
}

TEST_CASE("lesson 14: times are within 10% of every published run, and the constants are those of the fit") {
  Thin thin;
  for (const Published& one : published) {
    if (thin.skips()) continue;
    INFO(one.name);
    CHECK(one.ratio({}) == doctest::Approx(1).epsilon(0.1));
  }
  const double least = misfit({});
  for (const auto& [product, half] : {std::pair{1.02, 1.0}, {0.98, 1.0}, {1.0, 1.3}, {1.0, 0.7}}) {
    Efficiency other;
    other.product *= product, other.half *= half;
    CHECK(misfit(other) > least);
  }
}

TEST_CASE("the elements of a model are those of its weights") {
  for (const std::int64_t experts : {0, 3})
    for (const bool tied : {true, false}) {
      Question asked = gpt3(8, 64);
      asked.model.attention = {24, 6, 2, {}}, asked.model.layers = 5, asked.model.inner = 40;
      asked.model.experts = experts, asked.model.ep = 3, asked.model.tied = tied;
      std::int64_t all = 0;
      for (const gpt::WeightInfo& info : gpt::weights_of(asked.model)) all += info.rows * info.cols;
      CHECK(gpt::elements_of(asked.model) == all);
    }
}

TEST_CASE("lesson 14: a product is limited by its multiply-adds or by its bytes") {
  const DataSheet machine{"", 1e12, 1e9, gib, 1e9, 1e8, 4};
  const Efficiency all{.product = 1, .half = 0, .memory = 1, .link = 1, .latency = 0};
  CHECK(product_seconds(machine, all, 2, 4000, 4000, 4000) == doctest::Approx(2 * 64e9 / 1e12));
  CHECK(product_seconds(machine, all, 2, 1, 4000, 4000) == doctest::Approx(2 * (4000 + 16e6 + 4000) / 1e9));
  Efficiency half = all;
  half.half = 4000;
  CHECK(product_seconds(machine, half, 2, 4000, 4000, 4000) == doctest::Approx(8 * 2 * 64e9 / 1e12));
}

TEST_CASE("lesson 14: a group crosses machines where its ranks do, and takes all adapters of its devices") {
  const DataSheet machine{"", 1e12, 1e9, gib, 8e8, 1e8, 8};
  const Efficiency all{.product = 1, .half = 0, .memory = 1, .link = 1, .latency = 1e-3};
  CHECK_FALSE(Link{8, 1}.crosses(machine));
  CHECK(Link{16, 1}.crosses(machine));
  CHECK(Link{2, 8}.crosses(machine));
  CHECK(Link{4, 2}.inside(machine) == 4);
  CHECK(Link{8, 1}.seconds(machine, all, 2, 8e8) == doctest::Approx(2 * 2 * 3e-3 + 1));
  CHECK(Link{16, 1}.seconds(machine, all, 0, 8e8) == doctest::Approx(1));  // 8 adapters of 1e8
  CHECK(Link{16, 4}.seconds(machine, all, 0, 8e8) == doctest::Approx(4));  // 2 of them
  CHECK(Link{16, 8}.seconds(machine, all, 0, 8e8) == doctest::Approx(8));
  CHECK(Link{1, 1}.seconds(machine, all, 5, 0) == 0);
}

TEST_CASE("lesson 14: the FLOPs of a step are those of the papers' formula") {
  const Question asked = gpt3(1024, 1536);
  const double b = 1536, s = 2048, l = 96, h = 12288, v = 51200;
  CHECK(step_flops(asked.model, 1536, false) ==
        doctest::Approx(72 * b * l * s * h * h * (1 + s / (6 * h) + v / (12 * l * h))));
  CHECK(step_flops(asked.model, 1536, true) ==
        doctest::Approx(96 * b * l * s * h * h * (1 + s / (6 * h) + v / (16 * l * h))));
}

TEST_CASE("lesson 14: the first microbatches tell the time of all, and the most that is kept") {
  Question asked = gpt3(64, 0);
  for (const int p : {1, 2, 4, 8})
    for (const int v : {1, 2, 3})
      for (const int m : {8, 16, 64}) {
        if (p == 1 && v > 1) continue;
        INFO(p, " stages, ", v, " chunks, ", m, " microbatches");
        Cut cut;
        cut.sizes = {8, p, 1}, cut.chunks = v;
        asked.batch = m;
        const three_d::Config run = run_of(asked, cut);
        const auto kind = run.training.schedule;
        const pipeline::Plan& few = schedule_of(kind, p, m, v);
        const auto all = pipeline::with_asynchronous_sends(pipeline::make_plan(kind, p, m, v));
        const pipeline::Costs costs = pipeline::Costs::equal(p * v, 1, 1, 1, 0.01);
        const double busy = 3 * v + (p > 1 ? 2 * v * 0.01 : 0);
        CHECK(pipeline_seconds(few, costs, m, busy) ==
              doctest::Approx(pipeline_seconds(all, costs, m, busy)).epsilon(0.01));
        for (const int stage : {0, p - 1}) {
          const Parts of_few = memory_of(asked, cut, run, few, stage);
          CHECK(sum(of_few) == sum(memory_of(asked, cut, run, all, stage)));
        }
      }
}

TEST_CASE("lesson 14: what a search answers fits, and nothing that was tried is faster") {
  const Question asked = gpt3(256, 256);
  Fixed fixed;
  fixed.microbatch = 1, fixed.recompute = Recompute::none;
  const Answer answer = search(asked, fixed);
  REQUIRE(answer.best.size() == 5);
  double fastest = INFINITY;
  int tried = 0;
  for_cuts(asked, fixed, [&](const Cut& cut) {
    try {
      const Estimate one = estimate(asked, cut, false);
      ++tried;
      CHECK(one.seconds() > 0);
      CHECK(cut.sizes.ranks() == 256);
      if (one.bytes() <= asked.machine.usable()) fastest = std::min(fastest, one.seconds());
    } catch (const UsageError&) {
    }
  });
  CHECK(tried == answer.tried);
  for (const Estimate& one : answer.best) {
    CHECK(one.bytes() <= asked.machine.usable());
    CHECK(one.seconds() >= 0.99 * answer.best.front().seconds());
    CHECK(part(one.memory, "weights") * one.cut.sizes.tp * one.cut.sizes.pp >
          2 * 174e9 / (one.cut.zero == 3 ? 64 : 1));
  }
  CHECK(answer.best.front().seconds() <=
        fastest * 1.02);  // the simulation is more exact than the closed form
}

TEST_CASE("lesson 14: each stage of ZeRO, recomputation and sequence parallelism take what they should") {
  const Question asked = gpt3(512, 512);
  Cut cut;
  cut.sizes = {8, 8, 8};
  const auto with = [&](auto change) {
    Cut changed = cut;
    change(changed);
    return estimate(asked, changed);
  };
  const Estimate plain = estimate(asked, cut);
  double before = sum(plain.memory);
  for (const int stage : {1, 2, 3}) {
    const Estimate sharded = with([&](Cut& c) { c.zero = stage; });
    CHECK(sharded.bytes() < before);
    before = sharded.bytes();
  }
  const Estimate full = with([](Cut& c) { c.recompute = Recompute::full; });
  CHECK(part(full.memory, "activations") < 0.2 * part(plain.memory, "activations"));
  CHECK(full.seconds() > 1.25 * plain.seconds());
  CHECK(full.executed > 1.3 * full.flops);
  const Estimate cut_by_tokens = with([](Cut& c) { c.sequence_parallel = true; });
  CHECK(part(cut_by_tokens.memory, "activations") < part(plain.memory, "activations"));
  CHECK(cut_by_tokens.seconds() < plain.seconds());
  const Estimate chunked = with([](Cut& c) { c.chunks = 3; });
  CHECK(part(chunked.time, "bubble") < 0.5 * part(plain.time, "bubble"));
}

TEST_CASE("lesson 14: the fullest stage is the last one where the head is larger than what is in flight") {
  Question asked = gpt3(4, 4);
  asked.model.layers = 4, asked.model.vocabulary = 1 << 20;
  asked.model.attention.options.seq = 128;
  Cut cut;
  cut.sizes = {1, 4, 1};
  const three_d::Config run = run_of(asked, cut);
  const auto& schedule = schedule_of(run.training.schedule, 4, run.training.microbatches, 1);
  const double first = sum(memory_of(asked, cut, run, schedule, 0)),
               last = sum(memory_of(asked, cut, run, schedule, 3));
  CHECK(last > first);
  CHECK(estimate(asked, cut).bytes() == last);
}
