#include "10_zero/units.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::zero;

namespace {

/// Two parts whose sizes the ranks need not divide, under one stage.
struct Setup {
  int stage, sizes[2];
  bool adamw;
};

Setup draw(Trial& t, int least_stage) {
  return {t.size(least_stage, 3), {t.size(3, 11), t.size(3, 11)}, t.size(0, 1) == 1};
}

data_parallel::Rule rule_of(const Setup& s) {
  data_parallel::Rule rule{.adamw = s.adamw};
  rule.constants.lr = 0.1;
  return rule;
}

Tensor whole(Trial& t, const std::string& name, int elements, const Communicator& dp) {
  const Tensor row = Tensor::zeros(1, padded(elements, dp.size()), DType::f64);
  row.column_range(0, elements).copy_from(t.in(name, 1, elements));
  return row;
}

void fill(Trial& t, ShardedUnits& units, const Setup& s, Communicator& dp) {
  for (const int elements : s.sizes) {
    const auto weights = [&] {
      const MemoryScope scope(MemoryKind::weight);
      return whole(t, format("weights of {}", elements), elements, dp);
    };
    units.add(weights(), Tensor::zeros(1, padded(elements, dp.size()), DType::f64), dp);
  }
}

/// This rank's columns of a unit's row, as a slice of the padded whole.
Slice own(int elements, const Communicator& dp) {
  return Slice::columns(1, padded(elements, dp.size()), dp.rank(), dp.size());
}

const Task gather("10.gather", [](Trial& t) {
  const Setup s = draw(t, t.ranks() == 2 ? 3 : 2);
  t.on_ranks([&](Communicator& dp) {
    ShardedUnits units(s.stage, rule_of(s));
    fill(t, units, s, dp);
    for (int pass = 0; pass < 2; ++pass)
      for (std::size_t u = 0; u < 2; ++u) {
        units.start(0);
        units.start(0);  // again: nothing more is sent
        units.wait_for(u);
        const Tensor row = units.units()[u].weights.copy();
        t.out(dp.rank(), format("pass {}, the weights of unit {} at stage {}", pass, u, s.stage),
              "the whole row", row, Slice::whole(1, row.cols()));
        if (u == 1) units.wait_for(0);
        for (std::size_t i = 0; u == 1 && i < 2; ++i) units.drop(i);
        t.count(format("rank {} holds # B of weights after unit {} of pass {}", dp.rank(), u, pass),
                Device::current()->memory.now(MemoryKind::weight));
      }
  });
});

const Task reduce("10.reduce", [](Trial& t) {
  const Setup s = draw(t, 1);
  t.on_ranks([&](Communicator& dp) {
    ShardedUnits units(s.stage, rule_of(s));
    fill(t, units, s, dp);
    units.zero_gradients();
    for (int microbatch = 0; microbatch < 2; ++microbatch)
      for (std::size_t u = 2; u-- > 0;) {
        units.open_gradients(u);
        add_to(units.units()[u].gradients,
               whole(t, format("gradients of {}, rank {}, microbatch {}", s.sizes[u], dp.rank(), microbatch),
                     s.sizes[u], dp));
        units.reduce(u, microbatch == 1);
        if (u == 0) units.finish(1), units.finish(0);  // both are under way
      }
    for (std::size_t u = 0; u < 2; ++u)
      t.out(dp.rank(), format("own gradients of unit {} at stage {}", u, s.stage),
            "this rank's part of the sum over ranks and microbatches", units.units()[u].own_gradients,
            own(s.sizes[u], dp));
  });
});

const Task step("10.step", [](Trial& t) {
  const Setup s = draw(t, 1);
  t.on_ranks([&](Communicator& dp) {
    ShardedUnits units(s.stage, rule_of(s));
    fill(t, units, s, dp);
    for (int number = 1; number <= 2; ++number) {
      for (std::size_t u = 0; u < 2; ++u) {
        const Tensor sum = whole(t, format("gradients of {} in step {}", s.sizes[u], number), s.sizes[u], dp);
        const Slice mine = own(s.sizes[u], dp);
        units.units()[u].own_gradients.copy_from(mine.extract(sum));
      }
      units.step(number, 0.5);
    }
    for (std::size_t u = 0; u < 2; ++u) {
      const Unit& unit = units.units()[u];
      const Tensor row = s.stage == 3 ? unit.own_weights : unit.weights;
      t.out(dp.rank(), format("weights of unit {} after two steps at stage {}", u, s.stage),
            s.stage == 3 ? "what this rank owns" : "the whole row", row,
            s.stage == 3 ? own(s.sizes[u], dp) : Slice::whole(1, row.cols()));
    }
  });
});

}  // namespace
