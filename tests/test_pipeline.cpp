// Lesson 06: whatever the schedule and the cut, a step's loss and gradients are the whole model's, and its
// bits those of a single stage; activations in flight are the formula's; partitions are right or refused.
#include <algorithm>
#include <array>
#include <numeric>

#include "06_pipeline/harness/compare.hpp"
#include "models.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::pipeline;

namespace {

/// One layer a virtual stage, and where it is `uneven` one more on the first and on the last of them.
Config setup(Schedule schedule, int stages, int microbatches, int chunks, bool uneven = false) {
  Config s;
  s.schedule = schedule;
  s.microbatches = microbatches;
  s.chunks = chunks;
  s.partition = Partition(stages * chunks, 1);
  if (uneven) s.partition.front() = 2, s.partition.back() += 1;
  s.model = model_of({.layers = std::accumulate(s.partition.begin(), s.partition.end(), std::int64_t{0})});
  s.model.tokens = microbatches * s.model.rows();
  return s;
}

/// Chunks and microbatches to try: fewer microbatches than stages too, where the schedule can.
std::vector<std::pair<int, int>> chunks_and_microbatches(Schedule schedule, int stages) {
  if (schedule != Schedule::interleaved) return {{1, 1}, {1, 3}, {1, stages + 1}};
  if (stages == 1) return {{1, 3}};
  return {{1, stages}, {2, stages}, {2, 2 * stages}, {3, stages}};
}

/// Loss and gradients, put together from all ranks.
std::map<std::string, std::vector<double>> bits(const Outcome& outcome) {
  std::map<std::string, std::vector<double>> all;
  for (const auto& [name, tensor] : outcome.dump)
    if (name.starts_with("split.")) all[name] = tensor.values();
  return all;
}

}  // namespace

TEST_CASE("lesson 06: loss and gradients are the whole's, and in flight is the formula's, for every cut") {
  Thin thin;
  for (const auto& [schedule, name] : schedule_names)
    for (const int stages : {1, 2, 3, 4, 8})
      for (const auto& [chunks, microbatches] : chunks_and_microbatches(schedule, stages))
        for (const bool uneven : {false, true})
          for (const bool recompute : {false, true})
            for (const DType dtype : {DType::f32, DType::f64}) {
              if (thin.skips()) continue;
              Config s = setup(schedule, stages, microbatches, chunks, uneven);
              s.recompute = recompute;
              INFO(name, ", ", stages, " stages, ", microbatches, " microbatches, layers ",
                   join(s.partition, ","), recompute ? ", recompute, " : ", ", tessera::name(dtype));
              const Outcome outcome = outcome_of(stages, s, floating(dtype));
              CHECK(faults(outcome) == "");
              CHECK(outcome.checks.size() == static_cast<std::size_t>(12 * s.model.layers + 6 + 2));
            }
}

TEST_CASE("lesson 06: the same bits on any number of stages, under any schedule, at any speed") {
  Thin thin;
  for (const DType dtype : {DType::f32, DType::f64}) {
    std::map<std::string, std::vector<double>> first;
    for (const int stages : {1, 2, 4, 8})
      for (const auto& [schedule, name] : schedule_names) {
        const int chunks = schedule == Schedule::interleaved && stages > 1 && stages < 8 ? 2 : 1;
        for (const double pace : {0.0, 2e-4}) {
          if (!first.empty() && thin.skips()) continue;
          Config s = setup(schedule, 8, 8, 1);
          s.chunks = chunks;
          s.partition = even_partition(8, stages * chunks);
          s.pace = pace;
          s.recompute = pace > 0 && stages == 4;
          const auto now = bits(outcome_of(stages, s, {Tier::floating, dtype, 3, true}));
          if (first.empty()) first = now;
          INFO(name, ", ", stages, " stages");
          CHECK(now == first);
        }
      }
    CHECK(first.size() == 12 * 8 + 6);
  }
}

TEST_CASE("lesson 06: recomputation holds less between its two forwards") {
  const auto held = [](Schedule schedule, bool recompute) {
    Config s = setup(schedule, 4, 8, schedule == Schedule::interleaved ? 2 : 1);
    s.recompute = recompute;
    return outcome_and_found(4, s, floating(DType::f32)).second.activation_bytes;
  };
  for (const auto& [schedule, name] : schedule_names) {
    CAPTURE(name);
    const auto all = held(schedule, false), input = held(schedule, true);
    REQUIRE(all.size() == 4);
    for (int r = 0; r < 4; ++r) {
      CAPTURE(r);
      // ZB-H1 keeps what was computed again until the dW that it puts off. The last stage puts all off.
      if (schedule == Schedule::zb_h1)
        CHECK((r == 3 ? input[r] == all[r] : input[r] < all[r]));
      else
        CHECK(input[r] < all[r] / 4);
    }
  }
}

TEST_CASE("lesson 06: with blocking sends 1F1B ends with the transport's diagnosis, GPipe holds") {
  Config s = setup(Schedule::one_f_one_b, 2, 4, 1);
  s.blocking = true;
  const auto start = std::chrono::steady_clock::now();
  const std::string message = message_from([&] { outcome_of(2, s, {}); });
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(2));
  CAPTURE(message);
  CHECK(contains(message, "no rank can go on: rank 0 waits in send of "));
  CHECK(contains(message, "rank 1 waits in send of "));
  CHECK(contains(warning(s), "stage 0 waits for stage 1 in its send of microbatch 2"));
  s.schedule = Schedule::gpipe;
  CHECK(outcome_of(2, s, {}).ok());
  CHECK(contains(warning(s), "survives it"));
}

TEST_CASE("lesson 06: a loss divided by one microbatch's tokens is caught and named") {
  const Config s = setup(Schedule::one_f_one_b, 2, 4, 1);
  const Outcome outcome = proven(2, floating(DType::f64), [&](Proof& proof, Communicator& comm) {
    prove(proof, comm, s);
    std::map<std::string, Tensor> weights;
    for (const auto& [name, rows, cols, scale] : weights_of(s.model))
      weights[name] = proof.other_slice(name, Slice::whole(rows, cols));
    const auto right = reference_step([&](const std::string& name) { return weights.at(name); }, s.model,
                                      gpt::random_tokens(s.model, proof.seed()));
    for (const auto& [name, tensor] : right.results)
      if (name != "loss")
        proof.result(name, "??", "broken " + name, scale(tensor, 4),
                     Slice::whole(tensor.rows(), tensor.cols()));
  });
  for (const Check& check : outcome.checks) {
    const bool broken = check.identity.starts_with("broken");
    CAPTURE(check.identity);
    CHECK(check.ok == !broken);
    CAPTURE(check.diagnosis);
    if (broken) CHECK(contains(check.diagnosis, "is m = 4 times too large: was the loss divided by"));
  }
}

TEST_CASE("partitions: the balanced one is the best of all") {
  const LayerCosts ends{.embedding = 8, .block = 1, .head = 4};
  CHECK(std::array{ends.of({2, 3, 1}, 0), ends.of({2, 3, 1}, 1), ends.of({2, 3, 1}, 2)} ==
        std::array{10., 3., 5.});
  const Random random(5, "costs");
  std::uint64_t drawn = 0;
  const auto cost = [&] { return static_cast<double>(random.bits(drawn++) % 1000) / 100; };
  for (int parts = 1; parts <= 5; ++parts)
    for (std::int64_t layers = parts; layers <= 9; ++layers)
      for (int n = 0; n < 6; ++n) {
        const LayerCosts costs{n == 0 ? 0 : cost(), 0.5 + cost() / 4, n == 1 ? 0 : cost()};
        const Partition balanced = balanced_partition(layers, parts, costs);
        REQUIRE(std::ssize(balanced) == parts);
        CHECK(*std::min_element(balanced.begin(), balanced.end()) > 0);
        CHECK(std::accumulate(balanced.begin(), balanced.end(), std::int64_t{0}) == layers);
        double best = INFINITY;
        const std::function<void(Partition, std::int64_t)> try_all = [&](Partition begun, std::int64_t left) {
          begun.push_back(left);  // to the last part; then less to this one
          if (std::ssize(begun) == parts) best = std::min(best, costs.slowest(begun));
          if (std::ssize(begun) == parts) return;
          for (begun.back() = 1; begun.back() < left; ++begun.back()) try_all(begun, left - begun.back());
        };
        try_all({}, layers);
        CAPTURE(join(balanced, ","));
        CHECK(costs.slowest(balanced) <= best * (1 + 1e-12));
      }
}

TEST_CASE("partitions: a list of numbers is taken, and layers are shared out evenly") {
  CHECK(parse_partition("3,2,2,1", 8, 4) == Partition{3, 2, 2, 1});
  CHECK(parse_partition("7", 7, 1) == Partition{7});
  CHECK(even_partition(10, 4) == Partition{3, 3, 2, 2});
  CHECK_THROWS_AS(parse_partition("8", 8, 4), UsageError);  // tests/bad_input.sh tries all forms
}
