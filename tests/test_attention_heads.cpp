// Lesson 05: every cut of attention and of the block equals the whole, for every mask and number of kv heads;
// the whole equals PyTorch and central differences; and broken by hand, it is caught and named.
#include "05_attention_heads/block_proof.hpp"
#include "support.hpp"
#include "tensor/safetensors.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::attention_heads;

namespace {

Sizes sizes(Part part, const std::string& mask, std::int64_t kv_heads, double dropout,
            const std::string& form = "auto") {
  Sizes s;
  s.shape = {36, 12, kv_heads, {}};
  s.shape.options.batch = 3;
  s.shape.options.seq = 7;
  s.shape.options.dropout = dropout;
  s.shape.options.seed = 5;
  choose(s, mask, part == Part::block ? "block" : "attention", form);
  return s;
}

Outcome outcome_of(int ranks, const ProofOptions& options, const Sizes& s) {
  Outcome outcome;
  on_ranks(ranks, [&](Communicator& comm) {
    Proof proof(comm, options);
    prove(proof, comm, s);
    Outcome mine = proof.finish();
    if (comm.rank() == 0) outcome = std::move(mine);
  });
  return outcome;
}

std::string faults(const Outcome& outcome) {
  std::string text;
  for (const Check& check : outcome.checks)
    if (!check.ok)
      text += str(check.identity, ": rank ", check.rank, " (", check.row, ", ", check.col, ") ", check.error,
                  " > ", check.bound, ". ", check.diagnosis, "\n");
  for (const std::string& note : outcome.notes) text += note + "\n";
  return text;
}

}  // namespace

TEST_CASE("lesson 05 holds at 1 to 12 ranks, all masks, kv heads and dtypes, with and without dropout") {
  for (const int ranks : {1, 2, 3, 4, 6, 12})
    for (const Part part : {Part::attention, Part::block})
      for (const char* mask : {"causal", "none", "padding"})
        for (const std::int64_t kv_heads : {1, 2, 4, 12})
          for (const double dropout : {0.0, 0.3})
            for (const DType dtype : {DType::f32, DType::f64}) {
              if (kv_heads != 1 && kv_heads % ranks != 0) continue;
              const Sizes s = sizes(part, mask, kv_heads, dropout);
              for (const char* form : {"plain", "streaming"}) {
                if (form[0] == 's' && (dtype == DType::f32 || part == Part::block)) continue;
                CAPTURE(ranks);
                CAPTURE(mask);
                CAPTURE(kv_heads);
                CAPTURE(dropout);
                const Outcome outcome =
                    outcome_of(ranks, {Tier::floating, dtype, 3}, sizes(part, mask, kv_heads, dropout, form));
                CHECK(faults(outcome) == "");
                CHECK(outcome.ok());
              }
            }
}

TEST_CASE("lesson 05, exact: the projections of every cut, error 0") {
  for (const int ranks : {1, 2, 3, 4, 6, 12})
    for (const std::int64_t kv_heads : {1, 2, 4, 12})
      for (const DType dtype : {DType::f32, DType::f64}) {
        if (kv_heads != 1 && kv_heads % ranks != 0) continue;
        const Outcome outcome =
            outcome_of(ranks, {Tier::exact, dtype, 3}, sizes(Part::attention, "causal", kv_heads, 0));
        CHECK(faults(outcome) == "");
        CHECK(outcome.ok());
        for (const Check& check : outcome.checks) CHECK(check.error == 0);
      }
}

TEST_CASE("the fused [Q|K|V] cut contiguously is caught and named") {
  for (const int ranks : {2, 3, 4}) {
    Sizes s = sizes(Part::attention, "causal", 12, 0);
    s.trap_qkv = true;
    const Outcome outcome = outcome_of(ranks, {Tier::floating, DType::f32, 3}, s);
    CHECK(!outcome.ok());
    CHECK(contains(faults(outcome), "cut contiguously"));
  }
}

TEST_CASE("the sandwich's own layers, one all-reduce each way, whatever the number of heads") {
  for (const int ranks : {2, 4}) {
    const Outcome one =
        outcome_of(ranks, {Tier::floating, DType::f32, 3}, sizes(Part::attention, "none", 12, 0));
    const Outcome two = outcome_of(ranks, {Tier::floating, DType::f32, 3}, sizes(Part::block, "none", 1, 0));
    REQUIRE(one.traffic.size() == 2);
    CHECK(one.traffic[0].calls == 1);
    CHECK(one.traffic[1].calls == 1);
    REQUIRE(two.traffic.size() == 2);
    CHECK(two.traffic[0].calls == 2);
    CHECK(two.traffic[1].calls == 3);  // and [dK dV]
  }
}
