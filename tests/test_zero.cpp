// Lesson 10: every stage of ZeRO gives the gradients of the unsplit model and, after some steps, the bits of
// plain data parallelism; its memory and its bytes are those of the formulas.
#include <algorithm>

#include "07_data_parallel/replica.hpp"
#include "10_zero/harness/proof.hpp"
#include "models.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::zero;

namespace {

Config config_of(int stage, std::int64_t batch, bool adamw) {
  Config s;
  // Parts of 156, 582 and 91 elements: few ranks divide all of them.
  s.training.model = model_of({.width = 6, .vocabulary = 13, .batch = batch, .seq = 3});
  s.training.stage = stage;
  s.training.adamw = adamw;
  s.steps = 3;
  return s;
}

Outcome outcome_of(int ranks, DType dtype, const Config& s, std::vector<double>* losses = nullptr) {
  return proven(ranks, {Tier::floating, dtype, 3}, [&](Proof& proof, Communicator& dp) {
    const std::vector<double> mine = prove(proof, dp, s);
    if (dp.rank() == 0 && losses != nullptr) *losses = mine;
  });
}

}  // namespace

TEST_CASE("lesson 10 holds at 1, 2, 3, 4 and 8 ranks under every stage, on even and uneven batches") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 8})
    for (int stage = 0; stage < 4; ++stage)
      for (const std::int64_t batch : {16, 11})
        for (const bool adamw : {false, true})
          for (const DType dtype : {DType::f32, DType::f64}) {
            if (thin.skips()) continue;
            INFO(ranks, " ranks, stage ", stage, ", batch ", batch, adamw ? ", AdamW" : "");
            const Outcome outcome = outcome_of(ranks, dtype, config_of(stage, batch, adamw));
            CHECK(faults(outcome) == "");
            CHECK(outcome.checks.size() == 1 + 29 + 3 + (stage == 3 && ranks > 1 ? 1 : 0));
            CHECK(outcome.memory.size() == 3 + (stage == 2 ? 1 : stage == 3 ? 2 : 0));
          }
}

TEST_CASE("lesson 10: microbatches, clipping, and no prefetch hold under every stage") {
  for (int stage = 0; stage < 4; ++stage)
    for (const int ranks : {1, 3}) {
      INFO(ranks, " ranks, stage ", stage);
      Config s = config_of(stage, 12, true);
      s.microbatches = 2;
      CHECK(faults(outcome_of(ranks, DType::f64, s)) == "");
      s.training.clip = 0.5;
      CHECK(faults(outcome_of(ranks, DType::f32, s)) == "");
      s.microbatches = 1;
      s.training.prefetch = stage != 3;
      CHECK(faults(outcome_of(ranks, DType::f64, s)) == "");
    }
}

TEST_CASE("20 steps under every stage on 4 ranks find the losses of one rank") {
  std::vector<double> one;
  Config s = config_of(0, 10, true);
  s.steps = 20;
  CHECK(outcome_of(1, DType::f64, s, &one).ok());
  REQUIRE(one.size() == 20);
  for (int stage = 0; stage < 4; ++stage) {
    std::vector<double> four;
    s.training.stage = stage;
    CHECK(outcome_of(4, DType::f64, s, &four).ok());
    REQUIRE(four.size() == 20);
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(std::abs(one[i] - four[i]) <= 1e-11);
  }
}

TEST_CASE("every stage leaves the bits of lesson 07's replica, with its buckets") {
  for (int stage = 0; stage < 4; ++stage)
    for (const int ranks : {1, 2, 3, 4, 8})
      on_ranks(ranks, [&](Communicator& dp) {
        const auto group = dp.split(dp.rank(), 0, "tp");
        const TensorParallel alone(*group);
        Config s = config_of(stage, 11, false);
        s.training.lr = 0.1;
        const auto make = [](const std::string& name, const Slice& slice) {
          return generate(3, name, slice, DType::f32, Fill::uniform, 0.3);
        };
        const Batch batch = make_batch(s, dp, 5);
        s.training.model.attention.options.batch = own_sequences(s, dp.rank(), dp.size()).size();
        ZeroReplica sharded(s.training, alone, dp, DType::f32, make);
        data_parallel::Replica plain(s.training.model, alone, DType::f32, 1000, make);
        for (int step = 0; step < 4; ++step) {
          sharded.gradients(batch.own);
          sharded.step();
          plain.gradients(batch.own.front(), dp);
          plain.step(0.1, 0.9);
        }
        std::size_t next = 0;
        for (std::size_t u = 0; u < sharded.parameters().size(); ++u) {
          const Tensor row = whole_row(sharded.units().units()[u].own_weights, stage, dp);
          std::int64_t at = 0;
          for (const Parameter& one : sharded.parameters()[u]) {
            const Parameter& other = plain.parameters().at(next++);
            expect(one.name == other.name, one.name + " is not " + other.name);
            const std::int64_t size = other.value.size();
            expect(row.column_range(at, at + size).values() == other.value.values(),
                   other.name + ": other bits");
            at += size;
          }
        }
        expect_eq(next, plain.parameters().size(), "parameters");
      });
}

TEST_CASE("a released tensor gives its memory back, and refuses to be used") {
  const MemoryScope scope(MemoryKind::weight);
  const auto held = [] { return Device::current()->memory.now(MemoryKind::weight); };
  const std::int64_t before = held();
  const Tensor row = Tensor::zeros(1, 10, DType::f64), view = row.column_range(2, 6).reshape(2, 2);
  CHECK(held() - before == 80);
  row.release();
  row.release();  // a second time does nothing
  CHECK(held() == before);
  CHECK(contains(message_from([&] { view.values(); }), "was released"));
  row.restore();
  row.restore();
  CHECK(held() - before == 80);
  row.copy_from(Tensor::of(1, 10, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  CHECK(view.values() == std::vector<double>{2, 3, 4, 5});
}

TEST_CASE("under a limit of memory that refuses stage 0, stage 3 trains") {
  const auto run = [](int stage, std::int64_t limit) {  // the largest peak of a rank
    LaunchOptions options = ranks(4);
    options.memory_per_rank = limit;
    std::int64_t peak = 0;
    launch(options, [&](Communicator& dp) {
      Proof proof(dp, {Tier::floating, DType::f64, 3});
      prove(proof, dp, config_of(stage, 8, true));
      const Outcome outcome = proof.finish();
      if (dp.rank() == 0) peak = *std::max_element(outcome.peak.begin(), outcome.peak.end());
    });
    return peak;
  };
  const std::int64_t whole = run(0, INT64_MAX), sharded = run(3, INT64_MAX), between = (whole + sharded) / 2;
  CHECK(sharded < whole);
  CHECK(run(3, between) == sharded);
  CHECK(contains(message_from([&] { run(0, between); }), "is out of memory"));
}
