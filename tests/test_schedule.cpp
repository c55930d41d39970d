// The laws of lesson 06's schedules, and that an illegal plan is refused with its reason.
#include <algorithm>
#include <array>
#include <functional>

#include "06_pipeline/messages.hpp"
#include "06_pipeline/simulate.hpp"
#include "06_pipeline/validate.hpp"
#include "support.hpp"
#include "tools/labs/plan_text.hpp"

using namespace tessera;
using namespace tessera::pipeline;
using namespace tessera::test;

namespace {

struct Case {
  Schedule schedule;
  int p, m, v;
  Plan plan() const { return make_plan(schedule, p, m, v); }
  Timeline timeline(double f, double b, double w) const {
    return simulate(plan(), Costs::equal(p * v, f, b, w));
  }
};

bool legal(const Case& c) {
  if (c.schedule != Schedule::interleaved) return c.v == 1;
  return c.m % c.p == 0 && (c.p > 1 || c.v == 1);
}

/// Every schedule, 1 to 8 stages, 1 to 16 microbatches, 1 to 4 chunks, where legal.
void sweep(const std::function<void(const Case&)>& body) {
  int cases = 0;
  Thin thin;
  for (const auto& [schedule, name] : schedule_names)
    for (int p = 1; p <= 8; ++p)
      for (int m = 1; m <= 16; ++m)
        for (int v = 1; v <= 4; ++v) {
          const Case c{schedule, p, m, v};
          INFO(name, ", p ", p, ", m ", m, ", v ", v);
          if (!legal(c))
            CHECK_THROWS_AS(c.plan(), UsageError);
          else if (++cases, !thin.skips())
            body(c);
        }
  CHECK(cases == 3 * 8 * 16 + 16 + 4 * (8 + 5 + 4 + 3 + 2 + 2 + 2));
}

/// The activations in flight on stage r, as the papers give them.
int in_flight_law(const Case& c, int r) {
  if (c.schedule == Schedule::gpipe) return c.m;
  if (c.schedule == Schedule::one_f_one_b) return std::min(c.m, c.p - r);
  if (c.schedule == Schedule::zb_h1) return std::min(c.m, c.p);
  return std::min(c.v * c.m, 2 * (c.p - r - 1) + (c.v - 1) * c.p + 1);  // interleaved
}

bool near(double a, double b) { return std::abs(a - b) <= 1e-9 * (1 + std::abs(b)); }

Plan small(Schedule schedule = Schedule::one_f_one_b) {
  return make_plan(schedule, 3, 3, schedule == Schedule::interleaved ? 2 : 1);
}

std::string reason(const Plan& plan, int microbatches = 3, int chunks = 1) {
  return message_from([&] { check(plan, microbatches, chunks); });
}

/// The plan with other instructions in the place of `from` in a stage.
Plan replaced(Plan plan, std::size_t stage, const Instruction& from, const Instructions& by) {
  Instructions& list = plan[stage];
  const auto at = std::find(list.begin(), list.end(), from);
  REQUIRE(at != list.end());
  list.insert(list.erase(at), by.begin(), by.end());
  return plan;
}

/// The plan with `from` of one stage moved before `to`.
Plan moved(const Plan& plan, std::size_t stage, const Instruction& from, const Instruction& to) {
  return replaced(replaced(plan, stage, from, {}), stage, to, {from, to});
}

}  // namespace

TEST_CASE("schedules: the lists of 1F1B and ZB-H1 on two stages, spelled out") {
  CHECK(make_plan(Schedule::one_f_one_b, 2, 2) == plan_of({"f00 s00 f10 s10 g00 b00 g10 b10 R00",  //
                                                           "r00 f00 b00 d00 r10 f10 b10 d10 R00"}));
  CHECK(make_plan(Schedule::zb_h1, 2, 2)[1] ==
        instructions_of("r00 f00 i00 d00 r10 f10 i10 d10 w00 w10 R00"));
  CHECK(with_asynchronous_sends(make_plan(Schedule::one_f_one_b, 2, 2)) ==
        plan_of({"f00 s00 f10 s10 g00 W00 b00 g10 W10 b10 R00",  //
                 "r00 f00 b00 d00 r10 f10 b10 W00 d10 W10 R00"}));
}

TEST_CASE("schedules: every microbatch once, without deadlock, and in flight what the formula says") {
  sweep([](const Case& c) {
    const std::vector<int> in_flight = check(c.plan(), c.m, c.v);
    REQUIRE(in_flight.size() == static_cast<std::size_t>(c.p));
    for (int r = 0; r < c.p; ++r) {
      CHECK(in_flight[r] == in_flight_law(c, r));
      CHECK(in_flight_predicted(c.schedule, c.p, c.m, c.v, r) == in_flight_law(c, r));
    }
  });
}

TEST_CASE("schedules: the simulated bubble is the closed form") {
  sweep([](const Case& c) {
    const double p = c.p, m = c.m, v = c.v;
    const Timeline equal = c.timeline(1, 1, 1);  // backward = 2 forwards
    CHECK(near(equal.bubble(), bubble_predicted(c.schedule, c.p, c.m, c.v)));
    for (int r = 0; r < c.p; ++r) CHECK(near(equal.idle(r), idle_predicted(c.schedule, c.p, c.m)));
    if (c.schedule == Schedule::zb_h1) {
      CHECK(near(equal.idle(0), (p - 1) * 2 - std::min(m - 1, p - 1)));
      return;
    }
    const double law = (p - 1) / (v * m + p - 1);
    CHECK(near(equal.bubble(), law));
    CHECK(near(c.timeline(1, 0.5, 0.5).bubble(), law));  // backward = forward
    CHECK(near(c.timeline(1, 1.25, 0.25).bubble(), law));
  });
}

TEST_CASE("schedules: blocking sends deadlock in all but GPipe, and the reason names the circle") {
  sweep([](const Case& c) {
    const Plan plan = with_blocking_sends(c.plan());
    const std::string why = reason(plan, c.m, c.v);
    CHECK(why == message_from([&] { simulate(plan, Costs::equal(c.p * c.v, 1, 1, 1)); }));
    if (c.schedule == Schedule::gpipe || c.p == 1 || c.m == 1) {
      CHECK(why == "");  // all messages forward, then all back
      return;
    }
    CHECK(contains(why, "circular wait: stage "));
    if (c.schedule == Schedule::interleaved) return;
    // The last stage has its first gradient to give, the one before it its second activation.
    const int p = c.p;
    CHECK(contains(why,
                   format("stage {} waits for stage {} in its send_gradient of microbatch 1", p - 1, p - 2)));
    CHECK(contains(why, format("stage {} waits for stage {} in its send of microbatch 2", p - 2, p - 1)));
  });
  const Plan two = with_blocking_sends(make_plan(Schedule::gpipe, 2, 1));      // stage 0: f s W g b R
  CHECK(simulate(two, Costs::equal(2, 1, 1, 1, 5)).stages[0].at(2).end == 6);  // a forward, then the message
  CHECK(reason(with_blocking_sends(make_plan(Schedule::one_f_one_b, 2, 2)), 2) ==
        "circular wait: stage 0 waits for stage 1 in its send of microbatch 2, chunk 1; "
        "stage 1 waits for stage 0 in its send_gradient of microbatch 1, chunk 1");
}

TEST_CASE("schedules: what cannot be scheduled is refused with what would work") {
  const auto refuses = [](Schedule schedule, int p, int m, int v, const char* why) {
    CHECK_THROWS_WITH_AS(make_plan(schedule, p, m, v), doctest::Contains(why), UsageError);
  };
  refuses(Schedule::interleaved, 4, 6, 2, "--microbatches 8 would work, or 4");
  refuses(Schedule::interleaved, 4, 3, 2, "--microbatches 4 would work");
  refuses(Schedule::interleaved, 1, 4, 2, "--chunks 1 would work");
  refuses(Schedule::one_f_one_b, 4, 8, 2, "only interleaved has several; --chunks 1 would work");
  refuses(Schedule::gpipe, 0, 8, 1, "at least one stage, microbatch and chunk, not 0, 8 and 1");
  refuses(Schedule::gpipe, 4, 0, 1, "not 4, 0 and 1");
  refuses(Schedule::interleaved, 4, 8, 0, "not 4, 8 and 0");
}

TEST_CASE("schedules: a plan with any one instruction left out or done twice is refused") {
  for (const auto& [schedule, name] : schedule_names) {
    const int chunks = schedule == Schedule::interleaved ? 2 : 1;
    const Plan good = small(schedule);
    REQUIRE(reason(good, 3, chunks) == "");
    for (std::size_t stage = 0; stage < good.size(); ++stage)
      for (const Instruction& i : good[stage]) {
        INFO(name, ", stage ", stage, ": ", text(i));
        CHECK(reason(replaced(good, stage, i, {}), 3, chunks) != "");
        CHECK(reason(replaced(good, stage, i, {i, i}), 3, chunks) != "");
      }
  }
}

TEST_CASE("schedules: each kind of illegal plan is refused with its reason") {
  using enum Op;
  const Plan good = small(), zb = small(Schedule::zb_h1);
  const auto refused = [](const Plan& plan, const std::string& why, int microbatches = 3, int chunks = 1) {
    const std::string found = reason(plan, microbatches, chunks);
    CHECK_MESSAGE(contains(found, why), "expected: ", why, "; found: ", found);
  };
  // A dependency broken.
  refused(moved(good, 1, {forward, 0}, {receive, 0}),
          "stage 1, instruction 0, forward of microbatch 1, chunk 1: "
          "comes before its receive");
  refused(moved(good, 2, {backward, 0}, {forward, 0}), "comes before its forward");
  refused(moved(good, 1, {send, 0}, {forward, 0}), "send of microbatch 1, chunk 1: comes before its forward");
  refused(moved(good, 1, {backward, 0}, {receive_gradient, 0}), "comes before its receive_gradient");
  refused(moved(good, 1, {send_gradient, 0}, {backward, 0}), "comes before its backward_input");
  refused(moved(zb, 2, {backward_weight, 0}, {backward_input, 0}), "comes before its backward_input");
  // A microbatch missing, done twice, or not there.
  refused(replaced(replaced(good, 2, {backward, 1}, {}), 2, {send_gradient, 1}, {}),
          "stage 2: backward_input of microbatch 2, chunk 1 is missing");
  refused(replaced(zb, 0, {backward_weight, 2}, {}),
          "stage 0: backward_weight of microbatch 3, chunk 1 is missing");
  refused(replaced(good, 0, {forward, 1}, {{forward, 1}, {forward, 1}}), "done twice");
  refused(replaced(good, 0, {backward, 1}, {{backward, 1}, {backward_weight, 1}}), "done twice");
  refused(replaced(good, 0, {forward, 1}, {{forward, 3}}), "no such microbatch or chunk");
  refused(replaced(good, 0, {forward, 1}, {{forward, 1, 1}}), "no such microbatch or chunk");
  // An activation used after its backward has freed it. (Stage 1 would wait for ever, too: this comes first.)
  refused(moved(good, 0, {send, 2}, {reduce}), "its backward has freed what it sends");
  // Messages that do not match, or have nobody at the other end.
  refused(moved(moved(good, 0, {forward, 1}, {forward, 0}), 0, {send, 1}, {send, 0}),
          "message 1 from stage 0 to stage 1: the send of microbatch 2, chunk 1, meets the receive of "
          "microbatch 1");
  const Plan chunks = make_plan(Schedule::interleaved, 2, 2, 2);
  refused(moved(moved(chunks, 0, {send, 0, 0}, {send, 1, 1}), 0, {send, 1, 0}, {send, 0, 0}),
          "message 1 from stage 0 to stage 1: the send of microbatch 1, chunk 2, meets the receive of "
          "microbatch 1, chunk 1",
          2, 2);
  refused(replaced(good, 0, {send, 1}, {}), "2 sends from stage 0 to stage 1, but 3 receives");
  refused(replaced(good, 0, {forward, 0}, {{receive, 0}, {forward, 0}}), "no stage is at the other end");
  refused(replaced(good, 2, {forward, 0}, {{forward, 0}, {send, 0}}), "no stage is at the other end");
  refused(replaced(good, 0, {forward, 0}, {{forward, 0}, {wait, 0}}), "stage 0 waits for no send");
  // The reduction.
  refused(replaced(good, 1, {reduce}, {}), "stage 1: the reduce is missing");
  refused(moved(good, 1, {reduce}, {backward, 2}), "after the reduce");
  // Stages that wait in a circle, although every send is posted: stage 1 wants the gradient before it has
  // sent what the gradient is of.
  refused(moved(good, 1, {receive_gradient, 0}, {send, 0}),
          "circular wait: stage 1 waits for stage 2 in its receive_gradient of microbatch 1, chunk 1; "
          "stage 2 waits for stage 1 in its receive of microbatch 1, chunk 1");
}

TEST_CASE("schedules: every send is waited for once, which costs no time and blocks nobody") {
  sweep([](const Case& c) {
    const Plan plan = c.plan(), posted = with_asynchronous_sends(plan);
    CHECK(check(posted, c.m, c.v) == check(plan, c.m, c.v));
    for (const auto& [f, b, w] : {std::array{1.0, 1.0, 1.0}, {1.0, 0.5, 0.5}, {3.0, 1.0, 2.0}}) {
      const Costs costs = Costs::equal(c.p * c.v, f, b, w);
      CHECK(near(simulate(posted, costs).makespan(), simulate(plan, costs).makespan()));
    }
    for (const Instructions& list : posted) {
      const auto count = [&](Op op) {
        return std::count_if(list.begin(), list.end(), [op](const Instruction& i) { return i.op == op; });
      };
      CHECK(count(Op::wait) == count(Op::send) + count(Op::send_gradient));
    }
  });
}
