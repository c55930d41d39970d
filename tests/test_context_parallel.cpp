// Lesson 11: attention over tokens that are cut. Every way, placement and mask equals the whole, with its
// work, its bytes and its memory. And lesson 08's trainer with tokens cut over cp, under every cut of the
// rest.
#include "09_sequence_parallel/parts.hpp"
#include "10_zero/sharded_optimizer.hpp"
#include "11_context_parallel/harness/screen.hpp"
#include "11_context_parallel/parts.hpp"
#include "cut_gpt.hpp"
#include "directory.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::context_parallel;

namespace {

Config config(Way way, bool zigzag, Mask mask, std::int64_t heads, std::int64_t kv_heads, std::int64_t seq) {
  const AttentionOptions options{.batch = 2, .seq = seq, .mask = mask};
  Config c{{{3 * heads, heads, kv_heads, options}}, way, zigzag};
  attention_heads::complete(c.sizes);
  return c;
}

}  // namespace

TEST_CASE("lesson 11 holds at 1 to 8 ranks: ways, placements, masks, grouped queries") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const auto& way : way_names)
      for (const bool zigzag : {false, true})
        for (const auto& mask : attention_heads::mask_names)
          for (const std::int64_t group : {1, 2, 8})
            for (const DType dtype : {DType::f32, DType::f64}) {
              const std::int64_t heads = ranks == 3 ? 6 : 8, kv_heads = group < 8 ? heads / group : 1;
              const Config c = config(way.first, zigzag, mask.first, heads, kv_heads, ranks == 3 ? 36 : 32);
              if (!c.fits(kv_heads, ranks) || thin.skips()) continue;
              INFO(ranks, " ranks, ", way.second, zigzag ? ", zigzag, " : ", ", mask.second, ", kv ",
                   kv_heads);
              CHECK(faults(outcome_of(ranks, c, floating(dtype))) == "");
            }
}

TEST_CASE("lesson 11: the ring and the gather merge in one order, and give the same bits") {
  for (const Mask mask : {Mask::causal, Mask::none})
    on_ranks(3, [&](Communicator& cp) {
      const Config c = config(Way::ring, true, mask, 4, 2, 12);
      const Slice own = c.layout(3).slice(12, cp.rank());
      const auto made = [&](const char* name, std::int64_t cols) {
        return generate(3, name, {24, cols, own.row_ranges, {{0, cols}}}, DType::f32, Fill::uniform, 1);
      };
      const Tensor q = made("q", 12), k = made("k", 6), v = made("v", 6);
      std::vector<std::vector<double>> found;
      for (const Way way : {Way::ring, Way::gather}) {
        AttentionSaved saved;
        const auto core = make_core(way, cp, c.layout(3), own_heads(c.shape(), 0, 1));
        found.push_back(core.forward(q, k, v, c.shape().options, saved).values());
      }
      expect(found[0] == found[1], "other bits");
    });
}

TEST_CASE("lesson 11: contiguous chunks give the last of 4 ranks 1.75 times the mean, zigzag none") {
  const auto work = [](bool zigzag) {
    return outcome_and_found(4, config(Way::ring, zigzag, Mask::causal, 4, 4, 800)).second;
  };
  const auto contiguous = work(false);
  double mean = 0;
  for (const std::int64_t one : contiguous) mean += static_cast<double>(one) / 4;
  CHECK(static_cast<double>(contiguous[3]) / mean == doctest::Approx(1.75).epsilon(0.005));
  for (const std::int64_t one : work(true)) CHECK(static_cast<double>(one) == mean);
}

TEST_CASE("lesson 11: which way sends least, measured at three sizes, is what the formulas say") {
  struct Case {
    int ranks;
    std::int64_t kv_heads, seq;
    Way least;
  };
  for (const Case& one : {Case{2, 1, 8, Way::gather}, {4, 16, 16, Way::ulysses}, {8, 1, 32, Way::gather}}) {
    CAPTURE(one.ranks);
    std::pair<double, Way> least = {INFINITY, Way::ring};
    for (const auto& [way, name] : way_names) {
      const Config c = config(way, true, Mask::causal, 16, one.kv_heads, one.seq);
      double bytes = 0;
      for (const TrafficRow& row : outcome_of(one.ranks, c).traffic)
        bytes += row.phase == "step" ? 0 : static_cast<double>(row.wire);
      CHECK(bytes == static_cast<double>(8 * sent(c, way, one.ranks)));
      least = std::min(least, {bytes, way});
    }
    CHECK(least.second == one.least);
  }
}

TEST_CASE("lesson 11: the table of all ways has no 0 bytes where there are fewer tokens than ranks") {
  const std::string table = compare(config(Way::ring, true, Mask::causal, 4, 4, 1), 4);
  CHECK(count_of(table, " ranks, ") == 12);
  CHECK(!contains(table, "  0 B"));
}

TEST_CASE("lesson 11: the picture of the pairs has a cell for each that a mask lets through") {
  const auto picture = [](Mask mask) { return drawing(config(Way::ring, true, mask, 4, 4, 16), 2); };
  const std::string all = picture(Mask::none), causal = picture(Mask::causal);
  CHECK(count_of(all, "<rect") - count_of(causal, "<rect") == 6 + 1);
  CHECK(count_of(causal, "<rect") >= 10 + 3);
  CHECK(contains(all, "\" style=\"fill:"));  // well-formed
}

namespace {

using three_d::ParallelSizes;

/// Three steps of lesson 08 on made-up text, with the heads, layers and tokens that up to 8 ranks need.
three_d::Config trained(const ParallelSizes& sizes, Way way, bool zigzag, int stage = 0, bool over_tp = false,
                        int group = 1) {
  three_d::Config s = run_on_text(sizes,
                                  {.width = sizes.cp == 3 ? 6 : 8,
                                   .heads = sizes.cp == 3 ? 6 : 8,
                                   .layers = 2 * sizes.pp,
                                   .vocabulary = 13,
                                   .seq = sizes.cp % 3 == 0 ? 6 : std::max(8, 2 * sizes.cp),
                                   .tied = group == 1},
                                  2 * sizes.dp, 2);
  s.training.model.attention.kv_heads /= group;
  s.training.clip = 1;
  if (over_tp) sequence_parallel::use_in(s.training, true);
  use_in(s.training, sizes.cp, way, zigzag);
  zero::use_in(s.training, stage);
  return s;
}

}  // namespace

TEST_CASE("lesson 08 with tokens over cp: every tp x cp x pp x dp of 1 to 8 ranks is the unsplit run") {
  Thin thin;
  std::size_t turn = 0;
  for (const int ranks : {1, 2, 3, 4, 6, 8})
    for (const ParallelSizes& sizes : factorisations_with_cp(ranks)) {
      if (thin.skips() || (ranks % 3 == 0 && sizes.cp != 3)) continue;
      const auto& way = way_names[++turn % 3];
      three_d::Config s = trained(sizes, way.first, turn % 2 == 0);
      s.training.schedule = pipeline::schedule_names[turn % 4].first;
      if (s.training.schedule == pipeline::Schedule::interleaved) {
        if (sizes.pp == 2) s.training.chunks = 2;
        if (sizes.pp != 2) s.training.schedule = pipeline::Schedule::zb_h1;
      }
      INFO(way.second, ", ", text(sizes));
      CHECK(checked_losses_of(s).size() == 3);
    }
}

TEST_CASE("lesson 08 with tokens over cp: every way, placement and stage, tokens over tp, grouped queries") {
  Thin thin;
  for (int i = 0; i < 48; ++i) {
    if (thin.skips()) continue;
    const auto& way = way_names[static_cast<std::size_t>(i) % 3];
    const bool zigzag = i / 3 % 2 == 0, over_tp = i / 6 % 2 == 0;
    const int stage = i / 12, two = i / 2 % 2;
    INFO(way.second, zigzag ? ", zigzag" : "", over_tp ? ", tokens over tp, stage " : ", stage ", stage);
    checked_losses_of(trained({2, 1 + two, 2 - two, 2}, way.first, zigzag, stage, over_tp, 1 + i / 4 % 2),
                      i % 5 == 0   ? DType::bf16
                      : i % 5 == 1 ? DType::f32
                                   : DType::f64);
  }
}

TEST_CASE("lesson 08 with tokens over cp: the loss of a whole text, and a text of its own") {
  for (const auto& way : way_names)
    for (const bool eval : {false, true}) {
      three_d::Config s = trained({2, 1, 1, 2}, way.first, way.first != Way::gather);
      gpt::set_batch(s.training.model, s.batch = 6, 2);  // the last microbatch of the text is not full
      s.sample = 7, s.eval = eval;
      INFO(way.second);
      checked_losses_of(s);
    }
}

TEST_CASE("lesson 08 with tokens over cp: a checkpoint resumes under another cp") {
  const Directory directory;
  three_d::Config s = trained({1, 1, 2, 2}, Way::gather, true, 2);
  const std::vector<double> all = checked_losses_of(s);
  s.save = directory.file("run"), s.steps = 2;
  checked_losses_of(s);
  for (const ParallelSizes& sizes : {ParallelSizes{1, 1, 2, 4}, {2, 1, 2, 1}, {1, 1, 2, 2}}) {
    const three_d::Config rest = resumed(trained(sizes, Way::ring, true, sizes.tp), s.save);
    CHECK(three_d::largest_distance(checked_losses_of(rest), {all.back()}) <= 1e-11);
  }
}
