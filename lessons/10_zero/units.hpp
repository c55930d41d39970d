// ZeRO (Rajbhandari et al. 2020): d replicas of a model hold the same weights, gradients and optimiser state
// d times. So each replica owns the d-th part of what its stage cuts, and brings the rest when it is needed:
//
//   - stage 0: nothing. Plain data parallelism, lesson 07: all_reduce the gradients.
//   - stage 1: the optimiser's state. reduce_scatter the gradients, all_gather the new weights.
//   - stage 2: the gradients too. reduce_scatter those of each microbatch, and keep the own part.
//   - stage 3: the weights too (FSDP). all_gather those of a part before each use of them.
//
// No mathematics is cut. The same gradients are added in the same order, and an optimiser works element by
// element: so every stage gives the same bits as stage 0, except where stages 2 and 3 add up several
// microbatches. This file has stages 1 to 3; sharded_optimizer.hpp says when each call is made.
#pragma once

#include <array>

#include "07_data_parallel/optimizer.hpp"

namespace tessera::zero {

inline constexpr int code_line = __LINE__ + 6;
// begin unit
/// The weights of a block, of the last norm, or a matrix of the embedding or the head: one behind the other
/// in a flat row, which is padded so that d ranks share it out equally: c = ceil(elements / d), and rank r
/// owns columns [r c, (r + 1) c). Such a range may begin and end in the middle of a matrix. FSDP calls it a
/// FlatParameter.
struct Unit {
  Tensor weights, gradients;          // (1, d c)  whole; what a stage cuts has no memory between its uses
  Tensor own_weights, own_gradients;  // (1, c)    what this rank steps
  Tensor master;                      // (1, c)    own_weights themselves, or f32 of weights in bf16
  std::array<Tensor, 2> state;        // (1, c)    SGD's velocity, or AdamW's two moments
  Request arriving;                   // the all_gather of the weights that is under way
  Request summing;                    // the reduce_scatter of the gradients that is under way
  Tensor sum;                         // (1, c)    where that one puts this rank's part
  Communicator* dp;                   // the d ranks that share it out: all that have the same weights
};
// end unit

class ShardedUnits {
 public:
  ShardedUnits(int stage, const data_parallel::Rule& rule) : stage_(stage), rule_(rule) {}

  /// Takes over the rows of a unit, whose weights have their initial values. Both rows are (1, d c).
  void add(const Tensor& weights, const Tensor& gradients, Communicator& dp) {
    const std::int64_t c = weights.cols() / dp.size(), first = dp.rank() * c;
    const auto own = [&](const Tensor& row) { return row.column_range(first, first + c); };
    Unit unit{.weights = weights, .gradients = gradients, .dp = &dp};
    {
      const MemoryScope scope(MemoryKind::weight);
      unit.own_weights = stage_ == 3 ? own(weights).copy() : own(weights);
    }
    {
      const MemoryScope scope(MemoryKind::gradient);
      unit.own_gradients = stage_ == 1 ? own(gradients) : Tensor::zeros(1, c, gradients.dtype());
    }
    const MemoryScope scope(MemoryKind::optimizer);
    unit.master = cast(unit.own_weights, gradients.dtype());
    for (std::size_t k = 0; k < rule_.numbers(); ++k) unit.state[k] = Tensor::zeros(1, c, gradients.dtype());
    if (stage_ == 3) unit.weights.release();
    if (stage_ >= 2) unit.gradients.release();  // they may have no memory yet
    units_.push_back(std::move(unit));
  }

  // begin gather
  // task 10.gather (function, 3 points, 30 min): bring the weights of unit `u`, which must be whole while its
  // part computes, and let them go: what a rank holds is counted. Hint: start posts the all_gather and
  // returns at once, wait_for lets the part use the weights, and drop gives the memory back; only stage 3 has
  // anything to do.
  /// Begins to bring the whole weights of a unit, where the stage cuts them and nobody has begun yet.
  void start(std::size_t u) {
    Unit& unit = units_[u];
    if (stage_ < 3 || unit.arriving.pending()) return;
    unit.weights.restore();
    unit.arriving = unit.dp->iall_gather(unit.own_weights, stacked(unit, unit.weights));
  }
  /// Returns when the whole weights of the unit are there.
  void wait_for(std::size_t u) {
    start(u);
    if (units_[u].arriving.pending()) units_[u].arriving.wait();
  }
  void drop(std::size_t u) {
    if (stage_ == 3) units_[u].weights.release();
  }
  // end task
  // end gather

  // begin reduce
  /// Makes room for the whole gradients of a unit, which are zero then.
  void open_gradients(std::size_t u) {
    if (stage_ == 1) return;  // they stay from one microbatch to the next
    units_[u].gradients.restore();
    units_[u].gradients.zero();
  }
  // task 10.reduce (function, 4 points, 40 min): the unit's gradients of this microbatch are complete. `last`
  // says that no microbatch follows. reduce begins to sum them over the ranks and returns at once; finish
  // waits until what this rank steps holds the sum over all ranks and microbatches so far. Hint: stage 1 has
  // added the microbatches up, and sums over the ranks once; stages 2 and 3 keep no whole gradients from one
  // microbatch to the next. ireduce_scatter of a (d, c) tensor gives this rank its row of the sum.
  void reduce(std::size_t u, bool last) {
    Unit& unit = units_[u];
    if (stage_ == 1 && !last) return;
    const MemoryScope scope(MemoryKind::gradient);
    unit.sum = empty_like(unit.own_gradients);
    unit.summing = unit.dp->ireduce_scatter(stacked(unit, unit.gradients), unit.sum);  // (d-1) d c elements
  }
  void finish(std::size_t u) {
    Unit& unit = units_[u];
    if (!unit.summing.pending()) return;
    unit.summing.wait();
    if (stage_ == 1) {
      unit.own_gradients.copy_from(unit.sum);
    } else {
      add_to(unit.own_gradients, unit.sum);
      unit.gradients.release();
    }
    unit.sum = {};
  }
  // end task
  // end reduce

  // begin step
  // task 10.step (function, 3 points, 30 min): step what this rank owns, and leave every replica with the
  // whole new weights, where its stage keeps them whole. Hint: which stages own less than they compute with?
  /// Step `number` = 1, 2, ... of the optimiser, on what this rank owns. Gradients are scaled by `shrink`.
  /// The optimiser steps the master, which is then stored as the weights.
  void step(std::int64_t number, double shrink = 1) {
    for (Unit& unit : units_) {
      const Phase phase = unit.dp->phase("step");
      if (shrink < 1) unit.own_gradients.copy_from(scale(unit.own_gradients, shrink));
      rule_.step(unit.master, unit.state, unit.own_gradients, number);
      store(unit.own_weights, unit.master);
      if (stage_ < 3)  // stage 3 gathers them before their next use
        unit.dp->iall_gather(unit.own_weights.copy(), stacked(unit, unit.weights)).wait();
    }
  }
  // end task
  // end step

  /// Before the first microbatch of a step.
  void zero_gradients() {
    for (const Unit& unit : units_) (stage_ == 1 ? unit.gradients : unit.own_gradients).zero();
  }
  const std::vector<Unit>& units() const { return units_; }

 private:
  /// The row (1, d c) read as (d, c): row r is what rank r owns.
  static Tensor stacked(const Unit& unit, const Tensor& row) {
    return row.reshape(unit.dp->size(), row.cols() / unit.dp->size());
  }

  int stage_;
  data_parallel::Rule rule_;
  std::vector<Unit> units_;
};

}  // namespace tessera::zero
