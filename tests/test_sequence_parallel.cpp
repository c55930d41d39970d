// Lesson 09: tokens cut over tp. By hand and typed give the same bits; every cut equals the whole, with its
// bytes and its memory. The memory of lesson 08 with it; its gradients are in test_gpt2.cpp.
#include "08_three_d/harness/proof.hpp"
#include "09_sequence_parallel/harness/proof.hpp"
#include "09_sequence_parallel/parts.hpp"
#include "cut_gpt.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::sequence_parallel;

namespace {

Config config(Part part, Mask mask, std::int64_t kv_heads, double dropout, bool regather) {
  const AttentionOptions options{.batch = 3, .seq = 8, .mask = mask, .dropout = dropout, .seed = 5};
  Config c{{{48, 24, kv_heads, options}, part}, regather};
  attention_heads::complete(c.sizes);
  return c;
}

}  // namespace

TEST_CASE("lesson 09: by hand and typed give the same bits") {
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const DType dtype : {DType::f32, DType::f64})
      for (const bool regather : {false, true})
        on_ranks(ranks, [&](Communicator& comm) {
          const TensorParallel tp(comm);
          const std::int64_t n = 24, w = 19, f = 48;
          const auto make = generator(dtype);
          const Tensor x = make("X", slice_of<Shard<0>>(n, w, comm)),
                       dy = make("dY", slice_of<Shard<0>>(n, w, comm));
          ByHand hand;
          hand.gamma = make("gamma", Slice::whole(1, w)), hand.beta = make("beta", Slice::whole(1, w));
          hand.a = make("A", slice_of<Shard<1>>(w, f, comm));
          hand.c1 = make("c1", slice_of<Shard<1>>(1, f, comm));
          hand.b = make("B", slice_of<Shard<0>>(f, w, comm)), hand.c2 = make("c2", Slice::whole(1, w));
          hand.forward(x, comm);
          hand.backward(dy, comm);

          const attention_heads::NormOf<Shard<0>> norm{Placed<Replicated>(hand.gamma),
                                                       Placed<Replicated>(hand.beta)};
          Mlp mlp({hand.a, hand.c1}, {hand.b, hand.c2});
          mlp.regather = regather;
          attention_heads::NormOf<Shard<0>>::Saved saved_norm;
          Mlp::Saved saved;
          const Placed<Shard<0>> tokens(x), gradient(dy);
          expect_equal(add(tokens, mlp.forward(norm.forward(tokens, saved_norm), saved, tp)).local(), hand.y);
          const auto dn = mlp.backward_input(gradient, saved, tp);
          expect_equal(add(gradient, norm.backward_input(dn, saved_norm)).local(), hand.dx);
          mlp.backward_weight(saved);
          norm.backward_weight(saved_norm);
          const Tensor sums = sum_partials({norm.dweight, norm.dbias, mlp.fc2.dc}, tp).local();
          expect_equal(mlp.fc1.da.local(), hand.da);
          expect_equal(mlp.fc1.dc.local(), hand.dc1);
          expect_equal(mlp.fc2.da.local(), hand.db);
          expect_equal(sums.row_range(0, 1), hand.dgamma);
          expect_equal(sums.row_range(1, 2), hand.dbeta);
          expect_equal(sums.row_range(2, 3), hand.dc2);
        });
}

TEST_CASE("lesson 09 holds at 1 to 8 ranks, masks, grouped queries, dropout, both ways to keep X") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const Part part : {Part::attention, Part::block})
      for (const auto& [mask, mask_name] : attention_heads::mask_names)
        for (const std::int64_t kv_heads : {24, 8, 12})
          for (const double dropout : {0.0, 0.2})
            for (const bool regather : {false, true})
              for (const DType dtype : {DType::f32, DType::f64}) {
                if (kv_heads % ranks != 0 || thin.skips()) continue;
                INFO(ranks, " ranks, ", mask_name, ", ", kv_heads, " kv heads, dropout ", dropout);
                const Config c = config(part, mask, kv_heads, dropout, regather);
                CHECK(faults(outcome_of(ranks, c, floating(dtype))) == "");
              }
}

TEST_CASE("lesson 09: of the matrices that wait for the backward, lesson 05 keeps six whole") {
  const auto kept = [](bool regather, bool cut) {
    return matrices(config(Part::block, Mask::causal, 24, 0, regather), false, cut);
  };
  CHECK(kept(false, false) == std::pair<std::int64_t, std::int64_t>{6, 0});
  CHECK(kept(false, true) == std::pair<std::int64_t, std::int64_t>{4, 2});  // and the two are whole
  CHECK(kept(true, true) == std::pair<std::int64_t, std::int64_t>{6, 0});   // all are cut
}

TEST_CASE("lesson 08 with tokens cut over tp: the memory of a rank is its formula, under every schedule") {
  three_d::Config config = run_on_text(
      {}, {.width = 16, .heads = 8, .layers = 8, .vocabulary = 32, .seq = 4, .tied = true}, 16, 8);
  gpt::ModelConfig model = config.training.model;
  for (const bool regather : {false, true})
    under_every_cut(
        model, [&](int ranks, const three_d::ParallelSizes& sizes, const three_d::TrainingConfig& training) {
          config.sizes = sizes, config.training = training;
          use_in(config.training, regather);
          CAPTURE(regather);
          const Outcome outcome = proven(ranks, floating(DType::f64), [&](Proof& proof, Communicator& world) {
            three_d::check_first_step(proof, three_d::Mesh(world, sizes), config);
          });
          for (const Check& check : outcome.checks) CHECK(check.ok);
          CHECK(outcome.memory.size() == 4);
          for (const MemoryRow& row : outcome.memory) CHECK_MESSAGE(row.ok, row.label);
        });
}
