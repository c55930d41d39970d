// All lessons and the identities, swept: every output and every gradient equals the whole's, every byte and
// every buffer its formula. And lessons 02 and 03 broken by hand: each mistake is caught and named.
#include "01_mlp/training.hpp"
#include "02_column_split/harness/proof.hpp"
#include "03_row_split/harness/proof.hpp"
#include "04_mlp_block/harness/proof.hpp"
#include "app/screen.hpp"
#include "course.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;

TEST_CASE("the course holds at 1, 2, 3, 4 and 8 ranks, both tiers, each dtype, unequal rectangular shapes") {
  Thin thin;
  for (const Claim& claim : course())
    for (const int ranks : {1, 2, 3, 4, 8})
      for (const Tier tier : claim.tiers)
        for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
          for (int index = 0; index < 4; ++index) {
            // bf16 takes half of the shapes. Most of its exact sums are beyond 256: test_bf16.cpp has small
            // ones.
            if (dtype == DType::bf16 && (tier == Tier::exact || index % 2 == 0)) continue;
            if (thin.skips()) continue;
            const auto shape = sweep_shape(index, ranks);
            const Outcome outcome =
                proven(ranks, {tier, dtype, static_cast<std::uint64_t>(7 + index)},
                       [&](Proof& proof, Communicator& comm) { claim.prove(proof, comm, shape); });
            INFO(claim.name, ", ", ranks, " ranks, ", name(dtype), " (", shape.n, ", ", shape.k, ", ",
                 shape.m, ")");
            CHECK(faults(outcome) == "");
            for (const Check& check : outcome.checks)
              if (tier == Tier::exact) CHECK(check.error == 0);
          }
}

TEST_CASE("bf16: --exact holds where every sum stays below 256") {
  for (const Claim& claim : course()) {
    if (claim.name >= "05" && claim.name < "i") continue;  // their sums reach 303 at the smallest sizes
    CAPTURE(claim.name);
    for (const int ranks : {1, 2, 4}) {
      const Outcome outcome =
          proven(ranks, {Tier::exact, DType::bf16, 3}, [&](Proof& proof, Communicator& comm) {
            claim.prove(proof, comm, {ranks * 2, ranks * 2, ranks * 2, 0});
          });
      CAPTURE(faults(outcome));
      CHECK(outcome.ok());
      for (const Check& check : outcome.checks) CHECK(check.error == 0);
    }
  }
}

TEST_CASE("--no-baseline: 8 rows or columns of each result, recomputed from the generator") {
  for (const Claim& claim : course()) {
    if (claim.name >= "05") continue;  // nor the identities
    const Outcome outcome =
        proven(4, {Tier::floating, DType::f32, 3, false, false}, [&](Proof& proof, Communicator& comm) {
          claim.prove(proof, comm, {24, 36, 52});
        });
    INFO(claim.name);
    CHECK(faults(outcome) == "");
    CHECK(outcome.checks.size() >= 4);
  }
}

namespace {

/// add_batch() adds a batch's gradients to `gradients`: two batches give twice those of one.
void expect_sums(const std::vector<Tensor>& gradients, const std::function<void()>& add_batch) {
  add_batch();
  std::vector<Tensor> once;
  for (const Tensor& gradient : gradients) once.push_back(gradient.copy());
  add_batch();
  for (std::size_t i = 0; i < once.size(); ++i) {
    expect(largest(once[i]) > 0, "a gradient is zero");
    expect(scale(once[i], 2).values() == gradients[i].values(), "two batches are not twice one");
  }
}

}  // namespace

TEST_CASE("lesson 02 and 03: by hand and typed give the same bits") {
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      on_ranks(ranks, [&](Communicator& comm) {
        const TensorParallel tp(comm);
        const std::int64_t n = 17, k = 29, f = 48;
        const auto make = generator(dtype);
        {
          const Tensor x = make("X", Slice::whole(n, k)), dy = make("dY", Slice::whole(n, f));
          column_split::ByHand hand{make("A", slice_of<Shard<1>>(k, f, comm)),
                                    make("c", slice_of<Shard<1>>(1, f, comm))};
          hand.forward(x, comm);
          hand.backward(dy, x, comm);
          const column_split::ColumnParallelLinear typed(hand.a, hand.c);
          column_split::ColumnParallelLinear::Saved saved;
          expect_equal(tp.all_gather(typed.forward(Placed<Replicated>(x), saved)).local(), hand.y);
          const auto own_dy = tp.take_shard<1>(Placed<Replicated>(dy));
          expect_equal(typed.backward_input(own_dy, saved, tp).local(), hand.dx);
          typed.backward_weight(saved);
          expect_equal(typed.da.local(), hand.da);
          expect_equal(typed.dc.local(), hand.dc);
        }
        {
          const Tensor x = make("X", slice_of<Shard<1>>(n, f, comm)), dy = make("dY", Slice::whole(n, k));
          row_split::ByHand hand{make("A", slice_of<Shard<0>>(f, k, comm)), make("c", Slice::whole(1, k))};
          hand.forward(x, comm);
          hand.backward(dy, x);
          const row_split::RowParallelLinear typed(hand.a, hand.c);
          row_split::RowParallelLinear::Saved saved;
          expect_equal(typed.forward(Placed<Shard<1>>(x), saved, tp).local(), hand.y);
          expect_equal(typed.backward_input(Placed<Replicated>(dy), saved).local(), hand.dx);
          typed.backward_weight(saved);
          expect_equal(typed.da.local(), hand.da);
          expect_equal(typed.dc.local(), hand.dc);
        }
      });
}

TEST_CASE("gradients of several batches add up in every layer") {
  on_ranks(2, [](Communicator& comm) {
    const TensorParallel tp(comm);
    const auto make = generator(DType::f64, 2, Fill::integer);
    const Tensor x = make("X", Slice::whole(5, 6)), dy = make("dY", Slice::whole(5, 6));
    const mlp::Mlp whole{make("A", Slice::whole(6, 8)), make("c1", Slice::whole(1, 8)),
                         make("B", Slice::whole(8, 6)), make("c2", Slice::whole(1, 6)),
                         mlp::Activation::relu};
    expect_sums({whole.da, whole.dc1, whole.db, whole.dc2}, [&] { mlp::step(whole, x, dy); });

    const mlp_block::ParallelMlp block{
        {make("A", slice_of<Shard<1>>(6, 8, comm)), make("c1", slice_of<Shard<1>>(1, 8, comm))},
        {make("B", slice_of<Shard<0>>(8, 6, comm)), make("c2", Slice::whole(1, 6))},
        mlp::Activation::relu};
    mlp_block::ParallelMlp::Saved cut;
    block.forward(Placed<Replicated>(x), cut, tp);
    block.backward_input(Placed<Replicated>(dy), cut, tp);
    expect_sums({block.fc1.da.local(), block.fc1.dc.local(), block.fc2.da.local(), block.fc2.dc.local()},
                [&] { block.backward_weight(cut); });
  });
}

TEST_CASE_ON_EVERY_DEVICE(
    "lesson 01 learns, and in steady state its training asks the system for no memory") {
  const mlp::TrainingConfig config{"README.md", mlp::read_text(TESSERA_SOURCE_DIR "/README.md"),
                                   thinned > 1 ? 8 : 20};
  for (const DType dtype : {DType::f32, DType::f64}) {
    mlp::TextModel model(3, dtype);
    const std::int64_t held = Device::current()->memory.now();
    const mlp::TrainingRun run = mlp::train(model, config, 3, [](std::int64_t) {});
    CHECK(run.late_allocations == 0);
    CHECK(run.final_loss < run.curve.front().second - (thinned > 1 ? 0.1 : 0.5));
    CHECK(Device::current()->memory.now() == held);
  }
}

// Broken by hand. Each must fail a check, and the message must name the mistake.

TEST_CASE("broken by hand: the check names the mistake") {
  using T = const Tensor&;
  struct Broken {
    const char* says;
    Tensor (*y)(T x, T a, T c, Communicator& comm);  // of lesson 03, from X_i, A_i and c
  };
  const Broken all[] = {
      {"the mean of the terms, not their sum",
       [](T x, T a, T c, Communicator& comm) {
         return add_bias(scale(comm.all_reduce(matmul(x, a)), 0.25), c);
       }},
      {"the bias p times: was it added before the sum?",
       [](T x, T a, T c, Communicator& comm) { return comm.all_reduce(add_bias(matmul(x, a), c)); }},
      {"own term plus c: was it all-reduced?",
       [](T x, T a, T c, Communicator&) { return add_bias(matmul(x, a), c); }},
      {"lacks the bias", [](T x, T a, T, Communicator& comm) { return comm.all_reduce(matmul(x, a)); }},
      {"columns permuted: column 3 is column 7 of the whole",
       [](T x, T a, T c, Communicator& comm) {
         const Tensor y = add_bias(comm.all_reduce(matmul(x, a)), c), permuted = y.copy();
         permuted.column_range(3, 4).copy_from(y.column_range(7, 8));
         permuted.column_range(7, 8).copy_from(y.column_range(3, 4));
         return permuted;
       }},
      {"Y is zero", [](T x, T a, T, Communicator&) { return scale(matmul(x, a), 0); }}};
  for (const Broken& broken : all) {
    const Outcome outcome = proven(4, {}, [&](Proof& proof, Communicator& comm) {
      row_split::prove(proof, comm, {12, 20, 32});
      const Phase phase = comm.phase("check");
      const Tensor x = proof.other_slice("X", slice_of<Shard<1>>(12, 32, comm));
      const Tensor a = proof.other_slice("A", slice_of<Shard<0>>(32, 20, comm));
      const Tensor c = proof.other_slice("c", Slice::whole(1, 20));
      proof.result("Y", "NK", "broken", broken.y(x, a, c, comm), Slice::whole(12, 20));
    });
    INFO(broken.says);
    CHECK_FALSE(outcome.checks.back().ok);
    CHECK(contains(outcome.checks.back().diagnosis, broken.says));
  }
}

TEST_CASE("broken by hand: a backward all-reduce that is missing, in values and in bytes") {
  const Outcome outcome = proven(4, {}, [](Proof& proof, Communicator& comm) {
    column_split::prove(proof, comm, {12, 20, 32});
    const Tensor dy = proof.other_slice("dY", slice_of<Shard<1>>(12, 32, comm));
    const Tensor a = proof.other_slice("A", slice_of<Shard<1>>(20, 32, comm));
    proof.result("dX", "NK", "broken", matmul(dy, t(a)), Slice::whole(12, 20));
    proof.expect_traffic("bwd2", "all_reduce", "dX", 1, 4, "4");
  });
  CHECK_FALSE(outcome.ok());
  CHECK(contains(outcome.checks.back().diagnosis, "own term: was it all-reduced?"));
  CHECK(contains(faults(outcome), "bwd2 all_reduce dX was never called: the sum is still owed"));
}

TEST_CASE("broken by hand: everything sent twice") {
  const Outcome outcome = proven(3, {}, [](Proof& proof, Communicator& comm) {
    column_split::prove(proof, comm, {12, 18, 33});
    const Traffic once = comm.journal().traffic().at({"fwd", "world", "all_gather"});
    comm.journal().wire({"fwd", "world", "all_gather"}, once.wire, true);
    expect_eq(once.calls, comm.rank() == 0 ? 1 : 0, "calls");
  });
  CHECK_FALSE(outcome.ok());
  CHECK(contains(faults(outcome), "was everything sent twice?"));
}

namespace {

/// Y = X A on two ranks, with A placed as P: what is compared is spoil(Y, rank).
template <class P>
Outcome spoilt_product(const ProofOptions& options, const std::map<char, std::int64_t>& sizes,
                       const std::function<Tensor(const Tensor& y, int rank)>& spoil) {
  return proven(2, options, [&](Proof& proof, Communicator& comm) {
    proof.axes(sizes);
    const auto y = matmul(proof.input<Replicated>("X", "NK"), proof.input<P>("A", "KM"));
    proof.result("Y", "NM", "Y = 2 X A", spoil(y.local(), comm.rank()), proof.slice<P>("NM"));
    proof.baseline(identities::product_of_whole);
    proof.claim("loss of the first step", 0.5, 0.25, "Would a smaller --lr help?");
    proof.claim("loss of the second step", NAN, 0.25, "");
  });
}

}  // namespace

TEST_CASE("bounds bite: one typical term left out of one dot product fails, up to K = 1024") {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const std::int64_t k : {16, 128, 1024}) {
      const auto without_a_term = [&](const Tensor& y, int rank) {
        std::vector<double> values = y.values();
        if (rank == 1) values[2 * 4 + 1] -= 0.25;  // a term of its element (2, 1): the typical |x a| is 1/4
        return Tensor::of(6, 4, values, dtype);
      };
      const Check check =
          spoilt_product<Shard<1>>({Tier::floating, dtype, 5}, {{'N', 6}, {'K', k}, {'M', 8}}, without_a_term)
              .checks.at(0);
      CHECK_FALSE(check.ok);
      CHECK(check.rank == 1);
      CHECK(check.row == 2);
      CHECK(check.col == 5);  // its place in the whole
    }
}

TEST_CASE("a failing check says its rank and element, and a scalar has no element, and a claim no rank") {
  const auto shown = [](std::int64_t rows, std::int64_t cols) {
    Flags flags("");
    RunReport report{{}, {}, {}, &flags, {}, 0};
    report.outcomes.push_back(spoilt_product<Replicated>({}, {{'N', rows}, {'K', 4}, {'M', cols}},
                                                         [](const Tensor& y, int) { return scale(y, 2); }));
    return check_table(report, false);
  };
  const std::string matrix = shown(6, 8), scalar = shown(1, 1);
  INFO(matrix, scalar);
  CHECK(contains(matrix, "FAIL Y = 2 X A (float): rank 0, element ("));
  CHECK(contains(scalar, "FAIL Y = 2 X A (float): rank 0 is off by "));
  for (const std::string& text : {matrix, scalar})
    CHECK(contains(text,
                   "FAIL loss of the first step (float): is off by 0.5, the bound is 0.25\n"
                   "       Would a smaller --lr help?\n"));
}

TEST_CASE("NaN never passes") {
  const auto with_nan = [](const Tensor& y, int rank) {
    if (rank == 0) y.column_range(0, 1).row_range(0, 1).copy_from(Tensor::of(1, 1, {NAN}, DType::f32));
    return y;
  };
  const auto checks = spoilt_product<Shard<1>>({}, {{'N', 6}, {'K', 4}, {'M', 8}}, with_nan).checks;
  CHECK_FALSE(checks.at(0).ok);
  CHECK_FALSE(checks.at(2).ok);
  for (const int nan : {0, 2}) CHECK(checks.at(nan).used == INFINITY);  // no other check hides it
}
