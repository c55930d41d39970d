// Lessons 02 to 04 and the identities, swept: every output and every gradient equals the whole's, every byte
// and every buffer its formula; and broken by hand, each is caught and named.
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
            INFO(faults(outcome));
            CHECK(outcome.ok());
            for (const Check& check : outcome.checks)
              if (tier == Tier::exact) CHECK(check.error == 0);
          }
}

TEST_CASE("bf16: --exact holds where every sum stays below 256, and is refused beyond") {
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
  const auto columns = course()[0];
  const std::string message = message_of(2, [&](Communicator& comm) {
    Proof proof(comm, {Tier::exact, DType::bf16, 3});
    columns.prove(proof, comm, {8, 500, 8, 0});
    proof.finish();
  });
  CHECK(contains(message, "--exact needs sums below 256 in bf16"));
  CHECK(contains(message, "--dtype f64 would work, or smaller sizes"));
}

TEST_CASE("--no-baseline: 8 rows or columns of each result, recomputed from the generator") {
  for (const Claim& claim : course()) {
    if (claim.name >= "05") continue;  // nor the identities
    const Outcome outcome =
        proven(4, {Tier::floating, DType::f32, 3, false, false}, [&](Proof& proof, Communicator& comm) {
          claim.prove(proof, comm, {24, 36, 52});
        });
    INFO(claim.name, faults(outcome));
    CHECK(outcome.ok());
    CHECK(outcome.checks.size() >= 4);
  }
}

TEST_CASE("lesson 02 and 03: by hand and typed give the same bits") {
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      on_ranks(ranks, [&](Communicator& comm) {
        const TensorParallel tp(comm);
        const std::int64_t n = 17, k = 29, f = 48;
        const auto make = [&](const char* name, const Slice& slice) {
          return generate(3, name, slice, dtype, Fill::uniform, 1);
        };
        const auto equal = [](const Tensor& a, const Tensor& b) {
          expect(a.values() == b.values(), "other bits");
        };
        {
          const Tensor x = make("X", Slice::whole(n, k)), dy = make("dY", Slice::whole(n, f));
          column_split::ByHand hand{make("A", slice_of<Shard<1>>(k, f, comm)),
                                    make("c", slice_of<Shard<1>>(1, f, comm))};
          hand.forward(x, comm);
          hand.backward(dy, x, comm);
          const column_split::ColumnParallelLinear typed(hand.a, hand.c);
          column_split::ColumnParallelLinear::Saved saved;
          equal(tp.all_gather(typed.forward(Placed<Replicated>(x), saved)).local(), hand.y);
          equal(typed.backward_input(tp.take_shard<1>(Placed<Replicated>(dy)), saved, tp).local(), hand.dx);
          typed.backward_weight(saved);
          equal(typed.da.local(), hand.da);
          equal(typed.dc.local(), hand.dc);
        }
        {
          const Tensor x = make("X", slice_of<Shard<1>>(n, f, comm)), dy = make("dY", Slice::whole(n, k));
          row_split::ByHand hand{make("A", slice_of<Shard<0>>(f, k, comm)), make("c", Slice::whole(1, k))};
          hand.forward(x, comm);
          hand.backward(dy, x);
          const row_split::RowParallelLinear typed(hand.a, hand.c);
          row_split::RowParallelLinear::Saved saved;
          equal(typed.forward(Placed<Shard<1>>(x), saved, tp).local(), hand.y);
          equal(typed.backward_input(Placed<Replicated>(dy), saved).local(), hand.dx);
          typed.backward_weight(saved);
          equal(typed.da.local(), hand.da);
          equal(typed.dc.local(), hand.dc);
        }
      });
}

TEST_CASE("gradients of several batches add up in every layer") {
  on_ranks(2, [](Communicator& comm) {
    const TensorParallel tp(comm);
    const auto make = [&](const char* name, const Slice& slice) {
      return generate(3, name, slice, DType::f64, Fill::integer, 2);
    };
    const Tensor x = make("X", Slice::whole(5, 6)), dy = make("dY", Slice::whole(5, 6));
    const auto twice = [](const Tensor& once, const Tensor& gradient) {
      expect(scale(once, 2).values() == gradient.values(), "two batches are not twice one");
    };
    const mlp::Mlp whole{make("A", Slice::whole(6, 8)), make("c1", Slice::whole(1, 8)),
                         make("B", Slice::whole(8, 6)), make("c2", Slice::whole(1, 6)),
                         mlp::Activation::relu};
    mlp::Mlp::Saved saved;
    whole.forward(x, saved);
    whole.backward_input(dy, saved);
    whole.backward_weight(saved);
    std::vector<Tensor> once;
    for (const Tensor& g : {whole.da, whole.dc1, whole.db, whole.dc2}) once.push_back(g.copy());
    whole.backward_weight(saved);
    std::size_t i = 0;
    for (const Tensor& g : {whole.da, whole.dc1, whole.db, whole.dc2}) twice(once[i++], g);

    const mlp_block::ParallelMlp block{
        {make("A", slice_of<Shard<1>>(6, 8, comm)), make("c1", slice_of<Shard<1>>(1, 8, comm))},
        {make("B", slice_of<Shard<0>>(8, 6, comm)), make("c2", Slice::whole(1, 6))},
        mlp::Activation::relu};
    mlp_block::ParallelMlp::Saved cut;
    block.forward(Placed<Replicated>(x), cut, tp);
    block.backward_input(Placed<Replicated>(dy), cut, tp);
    block.backward_weight(cut);
    once.clear();
    const auto gradients = [&] {
      return std::vector{block.fc1.da.local(), block.fc1.dc.local(), block.fc2.da.local(),
                         block.fc2.dc.local()};
    };
    for (const Tensor& g : gradients()) once.push_back(g.copy());
    block.backward_weight(cut);
    i = 0;
    for (const Tensor& g : gradients()) twice(once[i++], g);
  });
}

// Broken by hand. Each must fail a check, and the message must name the mistake.

namespace {

/// Y of lesson 03 at p ranks, computed wrongly by `wrong` from X_i, A_i and c.
std::string broken_row_split(
    const std::function<Tensor(const Tensor&, const Tensor&, const Tensor&, Communicator&)>& wrong) {
  const Outcome outcome = proven(4, {}, [&](Proof& proof, Communicator& comm) {
    const row_split::Sizes s{12, 20, 32};
    row_split::prove(proof, comm, s);
    const auto own = [&](const char* name, const Slice& slice) { return proof.other_slice(name, slice); };
    const Tensor y = wrong(own("X", slice_of<Shard<1>>(12, 32, comm)),
                           own("A", slice_of<Shard<0>>(32, 20, comm)), own("c", Slice::whole(1, 20)), comm);
    proof.result("Y", "NK", "broken", y, Slice::whole(12, 20));
  });
  CHECK_FALSE(outcome.ok());
  CHECK_FALSE(outcome.checks.back().ok);
  return outcome.checks.back().diagnosis;
}

}  // namespace

TEST_CASE("broken by hand: the check names the mistake") {
  using T = const Tensor&;
  CHECK(contains(broken_row_split([](T x, T a, T c, Communicator& comm) {
                   const Phase phase = comm.phase("check");
                   return add_bias(scale(comm.all_reduce(matmul(x, a)), 0.25), c);
                 }),
                 "the mean of the terms, not their sum"));
  CHECK(contains(broken_row_split([](T x, T a, T c, Communicator& comm) {
                   const Phase phase = comm.phase("check");
                   return comm.all_reduce(add_bias(matmul(x, a), c));
                 }),
                 "the bias p times: was it added before the sum?"));
  CHECK(contains(broken_row_split([](T x, T a, T c, Communicator&) { return add_bias(matmul(x, a), c); }),
                 "own term plus c: was it all-reduced?"));
  CHECK(contains(broken_row_split([](T x, T a, T, Communicator& comm) {
                   const Phase phase = comm.phase("check");
                   return comm.all_reduce(matmul(x, a));
                 }),
                 "lacks the bias"));
  CHECK(contains(broken_row_split([](T x, T a, T c, Communicator& comm) {
                   const Phase phase = comm.phase("check");
                   const Tensor y = add_bias(comm.all_reduce(matmul(x, a)), c);
                   const Tensor permuted = y.copy();
                   permuted.column_range(3, 4).copy_from(y.column_range(7, 8));
                   permuted.column_range(7, 8).copy_from(y.column_range(3, 4));
                   return permuted;
                 }),
                 "columns permuted: column 3 is column 7 of the whole"));
  CHECK(contains(broken_row_split([](T x, T a, T, Communicator&) { return scale(matmul(x, a), 0); }),
                 "Y is zero"));
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
    const Phase phase = comm.phase("fwd");
    const std::int64_t calls = comm.journal().traffic().at({"fwd", "world", "all_gather"}).calls;
    comm.journal().wire({"fwd", "world", "all_gather"},
                        comm.journal().traffic().at({"fwd", "world", "all_gather"}).wire, true);
    expect_eq(calls, comm.rank() == 0 ? 1 : 0, "calls");
  });
  CHECK_FALSE(outcome.ok());
  CHECK(contains(faults(outcome), "was everything sent twice?"));
}

TEST_CASE("bounds bite: one typical term left out of one dot product fails, up to K = 1024") {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const std::int64_t k : {16, 128, 1024}) {
      const Outcome outcome = proven(2, {Tier::floating, dtype, 5}, [&](Proof& proof, Communicator& comm) {
        const TensorParallel tp(comm);
        const auto x = identities::placed<Replicated>(proof, comm, "X", "NK", 6, k);
        const auto a = identities::placed<Shard<1>>(proof, comm, "A", "KM", k, 8);
        const Tensor y = matmul(x, a).local();
        if (comm.rank() == 1) {  // rank 1's element (2, 1) without its 3rd term; the typical |x a| is 1/4
          std::vector<double> values = y.values();
          values[2 * 4 + 1] -= 0.25;
          y.copy_from(Tensor::of(6, 4, values, dtype));
        }
        proof.result("Y", "NM", "a term left out", y, slice_of<Shard<1>>(6, 8, comm));
        proof.baseline(identities::product_of_whole);
      });
      CHECK_FALSE(outcome.ok());
      CHECK(outcome.checks.at(0).rank == 1);
      CHECK(outcome.checks.at(0).row == 2);
      CHECK(outcome.checks.at(0).col == 5);  // its place in the whole
    }
}

TEST_CASE("a failing check says its rank and element; a scalar has no element, and a claim no rank") {
  const auto shown = [](std::int64_t rows, std::int64_t cols) {
    Flags flags("");
    RunReport report{{}, {}, {}, &flags, {}, 0};
    report.outcomes.push_back(proven(2, {}, [&](Proof& proof, Communicator& comm) {
      const auto x = identities::placed<Replicated>(proof, comm, "X", "NK", rows, 4);
      const auto a = identities::placed<Replicated>(proof, comm, "A", "KM", 4, cols);
      proof.result("Y", "NM", "Y = 2 X A", scale(matmul(x, a), 2).local(), Slice::whole(rows, cols));
      proof.baseline(identities::product_of_whole);
      proof.claim("loss of the first step", 0.5, 0.25, "Would a smaller --lr help?");
    }));
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
  const Outcome outcome = proven(2, {}, [](Proof& proof, Communicator& comm) {
    const auto x = identities::placed<Replicated>(proof, comm, "X", "NK", 6, 4);
    const auto a = identities::placed<Shard<1>>(proof, comm, "A", "KM", 4, 8);
    const Tensor y = matmul(x, a).local();
    if (comm.rank() == 0) y.column_range(0, 1).row_range(0, 1).copy_from(Tensor::of(1, 1, {NAN}, DType::f32));
    proof.result("Y", "NM", "NaN", y, slice_of<Shard<1>>(6, 8, comm));
    proof.baseline(identities::product_of_whole);
  });
  CHECK_FALSE(outcome.ok());
}
