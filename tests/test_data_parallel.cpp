// Lesson 07: buckets are summed when they are final; the replicas stay equal bit for bit. That their
// gradients are the whole batch's, for even and uneven rows, is swept with the other lessons in
// test_lessons.cpp.
#include "07_data_parallel/harness/proof.hpp"
#include "08_three_d/harness/layouts.hpp"
#include "at_once.hpp"
#include "models.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::data_parallel;

namespace {

Config setup(std::int64_t batch, std::int64_t bucket, std::int64_t steps) {
  Config s;
  s.model = model_of({.batch = batch, .seq = 3});
  s.bucket = bucket;
  s.steps = steps;
  return s;
}

}  // namespace

TEST_CASE("20 steps on 4 ranks leave equal replicas, and the loss of the run on one rank") {
  const auto losses = [](int ranks) {
    const auto [outcome, found] = outcome_and_found(ranks, setup(10, 1000, 20));
    CHECK(faults(outcome) == "");
    CHECK(outcome.checks.size() == 4 + 1 + 29 + 2);
    return found;
  };
  const auto one = losses(1), four = losses(4);
  CHECK(one.size() == 21);
  CHECK(three_d::largest_distance(one, four) <= 1e-11);
}

TEST_CASE("buckets: one call each, from the last gradients to the first, none before it is ready") {
  on_ranks(2, [](Communicator& comm) {
    const Tensor all = Tensor::zeros(1, 100, DType::f32);
    std::vector<gpt::Parameter> parameters;  // of 10, 20, 30 and 40 elements
    for (const std::int64_t n : {10, 20, 30, 40})
      parameters.push_back({"w", Slice::whole(1, n), Tensor::zeros(1, n, DType::f32), {}});
    const auto count = [&](std::int64_t bytes) { return Buckets(all, parameters, bytes).count(); };
    expect_eq(count(1), 4u, "a bucket a parameter");
    expect_eq(count(4 * 41), 2u, "[30, 100) and [0, 30)");
    expect_eq(count(4 * 1000), 1u, "one for all");
    const Tensor wide = Tensor::zeros(1, 100, DType::f64);
    expect_eq(Buckets(wide, parameters, 8 * 40).count(), 3u, "in f64: [60, 100), [10, 60) and [0, 10)");
    Buckets buckets(all, parameters, 4 * 41);
    buckets.ready_from(60, comm);  // only 40 elements of a bucket of 70
    expect_eq(buckets.posted(), 0u, "posted before its lowest gradient");
    buckets.ready_from(30, comm);
    expect_eq(buckets.posted(), 1u, "the first bucket");
    buckets.ready_from(0, comm);
    expect_eq(buckets.posted(), 2u, "all");
    buckets.finish();
  });
}

TEST_CASE("buckets are posted when their last gradient is final, not before") {
  on_ranks(1, [](Communicator& comm) {
    const TensorParallel alone(comm);
    const ModelConfig model = setup(2, 0, 0).model;
    const Tokens batch = gpt::microbatches_of(gpt::random_tokens(model, 3), 1).at(0);
    const auto gradients = [&](Communicator& dp, std::int64_t bucket) {
      Replica replica(model, alone, DType::f64, bucket, generator(DType::f64));
      replica.gradients(batch, dp);
      std::vector<double> all;
      for (const gpt::Parameter& one : replica.parameters())
        for (const double value : one.gradient.values()) all.push_back(value);
      return all;
    };
    const std::vector<double> once = gradients(comm, 1);
    for (const std::int64_t bucket : {1, 1000, 1 << 20}) {
      AtOnce two;
      std::vector<double> twice = gradients(two, bucket);
      for (double& value : twice) value /= 2;
      expect(twice == once, "gradients that came after their sum");
    }
  });
}

TEST_CASE("lesson 07: by hand and typed give the same bits") {
  for (const int ranks : {1, 2, 3, 4, 8})
    on_ranks(ranks, [](Communicator& comm) {
      const Range own = own_rows(11, comm.rank(), comm.size());
      const auto make = generator(DType::f32);
      const auto rows = [&](std::int64_t cols) { return Slice{11, cols, {own}, {{0, cols}}}; };
      const Tensor x = make("X", rows(5)), dy = make("dY", rows(7));
      ByHand hand{make("A", Slice::whole(5, 7)), make("c", Slice::whole(1, 7)), {}, {}, {}, {}};
      hand.forward(x);
      hand.backward(dy, x, comm);
      const Linear typed{Placed<Replicated>(hand.a), Placed<Replicated>(hand.c)};
      typed.backward_weight(Rows(x), Rows(dy));
      const auto [da, dc] = typed.finish(DataParallel(comm));
      expect_equal(typed.forward(Rows(x)).local(), hand.y);
      expect_equal(typed.backward_input(Rows(dy)).local(), hand.dx);
      expect_equal(da.local(), hand.da);
      expect_equal(dc.local(), hand.dc);
    });
}
