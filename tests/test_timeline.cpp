// The simulator of lesson 06 on cases computed by hand, and the pictures of timelines.
#include <sstream>

#include "06_pipeline/harness/timeline.hpp"
#include "06_pipeline/messages.hpp"
#include "06_pipeline/simulate.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::pipeline;
using namespace tessera::test;

namespace {

Timeline equal(Schedule schedule, int p, int m, int v = 1) {
  return simulate(make_plan(schedule, p, m, v), Costs::equal(p * v, 1, 1, 1));
}

/// As measured: in another unit, on a clock that began long before, each step a little late.
Timeline measured(Timeline timeline, double unit) {
  int n = 0;
  for (auto& steps : timeline.stages)
    for (Step& step : steps) {
      step.begin = 1000 + unit * (step.begin + 0.03 * (n++ % 4));
      step.end = 1000 + unit * step.end;
    }
  return timeline;
}

}  // namespace

TEST_CASE("simulator: messages take time, and hold up the receiver only") {
  // One microbatch through two stages: F, message, F, dX + dW, message, dX + dW.
  const Timeline one = simulate(make_plan(Schedule::gpipe, 2, 1), Costs::equal(2, 1, 2, 3, 0.5));
  CHECK(one.makespan() == 1 + 0.5 + 1 + 5 + 0.5 + 5);
  CHECK(one.idle(0) == one.makespan() - 6);
  // Two microbatches: stage 0 does not wait for its sends; it is done with both forwards at 2.
  const Timeline two = simulate(make_plan(Schedule::gpipe, 2, 2), Costs::equal(2, 1, 1, 1, 0.5));
  CHECK(two.stages[0][2].end == 2);
  // Stage 1 takes the second message after its first forward, from 2.5 on: its forward ends at 4.
  CHECK(two.stages[1][2].begin == 2.5);
  CHECK(two.stages[1][3].end == 4);
  // Waited for at once, a send lasts until its receive has taken it.
  const Plan blocking = with_blocking_sends(make_plan(Schedule::gpipe, 2, 2));
  CHECK(simulate(blocking, Costs::equal(2, 1, 1, 1, 0.5)).stages[0][3].begin == 1.5);
}

TEST_CASE("simulator: each virtual stage has its own costs") {
  Costs costs = Costs::equal(2, 1, 1, 1);
  costs.forward[1] = 3;  // the head of the model
  costs.backward_weight[1] = 2;
  // Stage 0: F 0-1, F 1-2, B 7-9, B 13-15. Stage 1: F 1-4, B 4-7, F 7-10, B 10-13.
  const Timeline timeline = simulate(make_plan(Schedule::one_f_one_b, 2, 2), costs);
  CHECK(timeline.makespan() == 15);
  CHECK(timeline.idle(0) == 9);
  CHECK(timeline.idle(1) == 3);
  CHECK(timeline.bubble() == doctest::Approx(12.0 / 30));
  // With dW apart the gradient leaves earlier: stage 1: F 1-4, dX 4-5, F 5-8, dX 8-9, then its dW.
  CHECK(simulate(make_plan(Schedule::zb_h1, 2, 2), costs).makespan() == 13);
  const Timeline chunks =
      simulate(make_plan(Schedule::interleaved, 2, 2, 2), {{1, 2, 4, 8}, {0, 0, 0, 0}, {0, 0, 0, 0}});
  CHECK(chunks.makespan() - chunks.idle(0) == 2 * (1 + 4));  // stage 0 holds virtual stages 0 and 2
  CHECK(chunks.makespan() - chunks.idle(1) == 2 * (2 + 8));
}

TEST_CASE("timeline: the picture of 1F1B, as predicted and as measured") {
  const Timeline timeline = equal(Schedule::one_f_one_b, 4, 8);
  const std::string rows =
      " s0 |1234......aa5bb6cc7dd8ee.ff.gg.hh|     9/33\n"
      " s1 |.123....aa4bb5cc6dd7ee8ff.gg.hh..|     9/33\n"
      " s2 |..12..aa3bb4cc5dd6ee7ff8gg.hh....|     9/33\n"
      " s3 |...1aa2bb3cc4dd5ee6ff7gg8hh......|     9/33\n";
  CHECK(draw(timeline, "predicted", 1) == "predicted                                   idle\n" + rows);
  CHECK(draw(measured(timeline, 0.005), "measured", 0.005) ==
        "measured                                    idle\n" + rows);
  CHECK(legend(timeline) == "1-8 forward, a-h its backward, . idle");
}

TEST_CASE("timeline: dX and dW apart, chunks on lines of their own") {
  const Timeline zb = equal(Schedule::zb_h1, 3, 4);
  CHECK(draw(zb, "predicted", 1) ==
        "predicted                idle\n"
        " s0 |123..aA4bBcCdD|     2/14\n"
        " s1 |.12.a3bA4cBdCD|     2/14\n"
        " s2 |..1a2b3cA4dBCD|     2/14\n");
  CHECK(legend(zb) == "1-4 forward, a-d its dX, A-D its dW, . idle");
  const Timeline chunks = equal(Schedule::interleaved, 2, 2, 2);
  CHECK(draw(chunks, "predicted", 1) ==
        "predicted                   idle\n"
        " s0.1 |12  ..  .  aabb|     3/15\n"
        " s0.2 |  12..aa.bb    |\n"
        " s1.1 |.12      aabb..|     3/15\n"
        " s1.2 |.  1aa2bb    ..|\n");
  CHECK(legend(chunks) == "1-2 forward, a-b its backward, . idle; a line a chunk");
  CHECK(legend(equal(Schedule::gpipe, 2, 1)) == "1 forward, a its backward, . idle");
  CHECK(legend(equal(Schedule::gpipe, 2, 40)) == "1-40 (last digit) forward, a-z its backward, . idle");
}

TEST_CASE("timeline: every line fits, and the idle column is what is drawn") {
  for (const int m : {1, 2, 16, 64})
    for (const double unit : {1.0, 0.25, 0.0})
      for (const auto& [schedule, name] : schedule_names) {
        const int p = m % 8 == 0 ? 8 : 1;
        std::istringstream lines(
            draw(equal(schedule, p, m, schedule == Schedule::interleaved && p > 1 ? 2 : 1), name, unit));
        std::size_t longest = 0;
        for (std::string line; std::getline(lines, line);) longest = std::max(longest, line.size());
        CHECK(longest <= 100);
        if (unit == 0) CHECK(longest == 100);
      }
  // A character shows what the stage does in the middle of its time.
  const auto forward = [](int microbatch, double begin, double end) {
    return Step{{Op::forward, microbatch}, begin, end};
  };
  const Timeline odd{{{forward(0, 0, 1.3), forward(1, 2, 3.2), forward(2, 3.2, 3.9), forward(3, 3.9, 5)}}};
  CHECK(contains(draw(odd, "measured", 1), "|1.234|      1/5\n"));
  const std::string scaled = draw(equal(Schedule::gpipe, 2, 60), "predicted", 1);
  CHECK(contains(scaled, "predicted (2.15 units a character)"));
}

TEST_CASE("timeline: the SVG shows every computation, the bubble, and says it") {
  const Timeline predicted = equal(Schedule::zb_h1, 4, 8);
  const std::string one = picture("zb-h1, 4 stages", {{"predicted", predicted}}, "in forwards");
  CHECK(contains(one, "role=\"img\""));
  CHECK(contains(one, "<title>zb-h1, 4 stages: bubble 11.1% predicted. A row is a stage"));
  CHECK(contains(one, ">zb-h1, 4 stages: bubble 11.1% predicted</text>"));
  CHECK(count_of(one, " class=\"cell\"") == 4 * 8 * 3 + 3);                   // and the legend's
  CHECK(count_of(one, "stroke-width=\"3\"") == 4 * 8 + 1);                    // dW
  CHECK(count_of(one, "fill-opacity") == 4 * 8 + 1);                          // dX
  CHECK(count_of(one, "fill=\"#0072b2\" class=\"cell\"/>\n<text") == 4 + 1);  // microbatch 1's forward, full
  CHECK(count_of(one, "url(#idle)") == 4 + 1);
  CHECK(count_of(one, ">bubble</text>") == 4);
  for (int stage = 0; stage < 4; ++stage) CHECK(contains(one, format(">stage {}</text>", stage)));
  CHECK(count_of(one, ">7</text>") == 4 * 3);  // microbatch 7
  CHECK(contains(one, ">time, in forwards</text>"));
  const std::string two =
      picture("zb-h1", {{"predicted", predicted}, {"measured", measured(predicted, 1)}}, "ms");
  CHECK(contains(two, "bubble 11.1% predicted, 14.9% measured"));
  CHECK(count_of(two, " class=\"cell\"") == 2 * 4 * 8 * 3 + 3);
  CHECK(two.find("predicted: 11.1%") < two.find("measured: 1"));
}
