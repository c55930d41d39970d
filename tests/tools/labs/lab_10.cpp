#include "10_zero/units.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::zero;

namespace {

/// Two parts whose sizes the ranks need not divide, under one stage.
struct Setup {
  Trial& t;
  int stage, sizes[2] = {t.size(3, 11), t.size(3, 11)};
  ShardedUnits units{stage, {.adamw = t.size(0, 1) == 1, .constants = {.lr = 0.1}}};

  Setup(Trial& trial, int least_stage) : t(trial), stage(t.size(least_stage, 3)) {
    for (const int elements : sizes) {
      const auto weights = [&] {
        const MemoryScope scope(MemoryKind::weight);
        return whole(format("weights of {}", elements), elements);
      };
      units.add(weights(), Tensor::zeros(1, padded(elements, t.ranks()), DType::f64), t.comm());
    }
  }
  Tensor whole(const std::string& name, int elements) const {
    const Tensor row = Tensor::zeros(1, padded(elements, t.ranks()), DType::f64);
    row.column_range(0, elements).copy_from(t.in(name, 1, elements));
    return row;
  }
};

const RankTask gather("10.gather", [](Trial& t) {
  Setup s(t, t.ranks() == 2 ? 3 : 2);
  for (int pass = 0; pass < 2; ++pass)
    for (std::size_t u = 0; u < 2; ++u) {
      s.units.start(0);
      s.units.start(0);  // again: nothing more is sent
      s.units.wait_for(u);
      t.out(format("pass {}, the weights of unit {} at stage {}", pass, u, s.stage), "the whole row",
            s.units.units()[u].weights.copy());
      if (u == 1) s.units.wait_for(0), s.units.drop(0), s.units.drop(1);
      t.count(format("rank {} holds # B of weights after unit {} of pass {}", t.rank(), u, pass),
              Device::current()->memory.now(MemoryKind::weight));
    }
});

const RankTask reduce("10.reduce", [](Trial& t) {
  Setup s(t, 1);
  s.units.zero_gradients();
  for (int microbatch = 0; microbatch < 2; ++microbatch)
    for (std::size_t u = 2; u-- > 0;) {
      s.units.open_gradients(u);
      add_to(s.units.units()[u].gradients,
             s.whole(format("gradients of {}, rank {}, microbatch {}", s.sizes[u], t.rank(), microbatch),
                     s.sizes[u]));
      s.units.reduce(u, microbatch == 1);
      if (u == 0) s.units.finish(1), s.units.finish(0);  // both are under way
    }
  for (std::size_t u = 0; u < 2; ++u)
    t.out<Shard<1>>(format("own gradients of unit {} at stage {}", u, s.stage),
                    "this rank's part of the sum over ranks and microbatches",
                    s.units.units()[u].own_gradients);
});

const RankTask step("10.step", [](Trial& t) {
  Setup s(t, 1);
  for (int number = 1; number <= 2; ++number) {
    for (std::size_t u = 0; u < 2; ++u) {
      const Tensor sum = s.whole(format("gradients of {} in step {}", s.sizes[u], number), s.sizes[u]);
      s.units.units()[u].own_gradients.copy_from(t.comm().take_shard(sum, 1));
    }
    s.units.step(number, 0.5);
  }
  for (std::size_t u = 0; u < 2; ++u) {
    const Unit& unit = s.units.units()[u];
    const std::string name = format("weights of unit {} after two steps at stage {}", u, s.stage);
    if (s.stage == 3)
      t.out<Shard<1>>(name, "what this rank owns", unit.own_weights);
    else
      t.out(name, "the whole row", unit.weights);
  }
});

}  // namespace
