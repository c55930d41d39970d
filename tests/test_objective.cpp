// BERT's objective in lesson 08: every cut hides the same tokens, and the loss is the mean over all of them.
#include <algorithm>

#include "09_sequence_parallel/parts.hpp"
#include "10_zero/sharded_optimizer.hpp"
#include "11_context_parallel/parts.hpp"
#include "cut_gpt.hpp"

using namespace tessera;
using namespace tessera::test;
using gpt::Tokens;
using three_d::ParallelSizes;

namespace {

/// Three steps of lesson 08 under BERT's objective.
three_d::Config trained(const ParallelSizes& sizes) {
  const std::int64_t layers = std::max(2, sizes.pp), seq = 2 * sizes.cp;
  three_d::Config s =
      run_on_text(sizes, {.heads = 8, .layers = layers, .vocabulary = 13, .seq = seq, .tied = true},
                  2 * sizes.dp * (sizes.cp == 1 ? 3 : 1), 2);
  s.masked = true, s.training.model.attention.options.mask = Mask::none;
  s.text.ids = made_up_ids(300, 11);  // [MASK] is 12
  context_parallel::use_in(s.training, sizes.cp, gpt::Way::ring, sizes.dp % 2 == 0);
  return s;
}

}  // namespace

TEST_CASE("of the tokens 15% are to be guessed: 80% of these are hidden, 10% exchanged, 10% left") {
  const std::int64_t count = 100000;
  const std::vector<std::uint16_t> text = made_up_ids(count, 11);
  const Tensor ids = Tensor::of(count, 1, {text.begin(), text.end()}, DType::i32);
  const Tokens batch = {ids, ids, {}}, masked = gpt::masked(batch, 13, 5, 2);
  const auto before = batch.ids.values(), after = masked.ids.values(), weights = masked.weights.values();
  CHECK(masked.targets.values() == before);
  double guessed = 0, hidden = 0, exchanged = 0, sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (weights[i] == 0) {
      REQUIRE(after[i] == before[i]);
      continue;
    }
    ++guessed, hidden += after[i] == 12 ? 1 : 0, exchanged += after[i] != 12 && after[i] != before[i] ? 1 : 0;
  }
  CHECK(guessed / count == doctest::Approx(0.15).epsilon(0.02));
  CHECK(hidden / guessed == doctest::Approx(0.8 + 0.1 / 13).epsilon(0.02));
  CHECK(exchanged / guessed == doctest::Approx(0.1 * 11 / 13).epsilon(0.05));
  CHECK(sum == doctest::Approx(count));  // so that the sum over all tokens / their number is the mean

  CHECK(gpt::masked(batch, 13, 5, 2).ids.values() == after);
  CHECK(gpt::masked(batch, 13, 5, 3).ids.values() != after);
  CHECK(gpt::masked(batch, 13, 6, 2).ids.values() != after);
}

TEST_CASE("BERT's objective: microbatches have unequal numbers of tokens to guess, one has none") {
  const three_d::Config s = trained({2, 2, 2});
  std::vector<std::int64_t> counts;
  for (std::int64_t step = 0; step < s.steps; ++step)
    for (const Tokens& one : gpt::microbatches_of(three_d::batch_of(s, 3, step), 4)) {
      const auto weights = one.weights.values();
      counts.push_back(std::ranges::count_if(weights, [](double weight) { return weight > 0; }));
    }
  CHECK(std::ranges::min(counts) == 0);
  CHECK(std::ranges::max(counts) >= 2);
}

TEST_CASE("BERT's objective: every tp x cp x pp x dp of 8 ranks, and of fewer, is the unsplit run") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const ParallelSizes& sizes : factorisations_with_cp(ranks)) {
      if (thin.skips() || (ranks == 3 && sizes.tp == 3)) continue;  // 8 heads
      INFO(text(sizes));
      checked_losses_of(trained(sizes));
    }
}

TEST_CASE("BERT's objective holds with tokens over tp, with ZeRO, and in f32 and bf16") {
  Thin thin;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
    for (const int stage : {0, 1, 3}) {
      if (thin.skips()) continue;
      three_d::Config s = trained({2, 2, 2});
      sequence_parallel::use_in(s.training, stage == 1);
      zero::use_in(s.training, stage);
      INFO(name(dtype), ", stage ", stage);
      checked_losses_of(s, dtype);
    }
}
