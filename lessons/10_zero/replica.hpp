// A replica of a GPT under ZeRO: the training step of lesson 07, part by part. At stage 3 the weights of the
// next part arrive while this one computes (the prefetch), and go when it is done.
#pragma once

#include "07_data_parallel/data_parallel.hpp"
#include "10_zero/units.hpp"
#include "gpt/builder.hpp"

namespace tessera::zero {

using gpt::Chunk;
using gpt::ModelConfig;
using gpt::Parameter;
using gpt::Tokens;

struct ZeroConfig {
  // model.attention.options.batch: this rank's sequences of a microbatch; model.tokens: of the whole batch
  ModelConfig model;
  int stage = 3;
  bool adamw = true, prefetch = true;
  double lr = 0.003, clip = 0;  // clip 0: the norm of the gradients is left alone
};

class ZeroReplica {
 public:
  /// `alone` is a group of one rank: the parts are not cut over tp.
  ZeroReplica(const ZeroConfig& config, const TensorParallel& alone, Communicator& dp, DType dtype,
              const gpt::MakeWeight& make)
      : config_(config), alone_(alone), units_(config.stage, config.adamw, dp) {
    const std::int64_t layers = config.model.layers;
    for (std::int64_t part = 0; part < layers + 2; ++part) {  // the embedding, the blocks, the head
      const bool first = part == 0, last = part == layers + 1;
      const std::int64_t blocks = first || last ? 0 : 1;
      const std::vector<std::int64_t> elements = {gpt::own_elements(config.model, blocks, first, last, 0, 1)};
      const GradientBuffer gradients(elements, dp.size(), dtype);  // where those made below will lie
      TensorRow weights(elements, dp.size(), dtype, MemoryKind::weight);
      gpt::Builder builder(config.model, alone, [&](const auto& name, const Slice& slice) {
        const Tensor made = make(name, slice), placed = weights.take(made);
        placed.copy_from(made);
        return placed;
      });
      parts_.push_back(builder.chunk({part - 1, part - 1 + blocks}, first, last));
      parameters_.push_back(builder.parameters);
      units_.add(weights.all(), gradients.all());
    }
  }

  // begin gradients
  /// Leaves the gradients of the whole batch with their owners. Returns the sum of the losses of this rank's
  /// tokens.
  double gradients(const std::vector<Tokens>& microbatches) {
    units_.zero_gradients();
    double losses = 0;
    for (std::size_t m = 0; m < microbatches.size(); ++m) {
      std::vector<Chunk::Saved> saved(parts_.size());
      {
        const auto phase = units_.dp().phase("fwd");
        Placed<Replicated> x;
        for (std::size_t u = 0; u < parts_.size(); ++u)
          use(u, u + 1, [&] { x = parts_[u].forward(x, microbatches[m], saved[u], alone_); });
        losses += sum_rows(saved.back().losses).values()[0];
      }
      const auto phase = units_.dp().phase("bwd");
      Placed<Replicated> dx;
      for (std::size_t u = parts_.size(); u-- > 0;) {
        use(u, u - 1, [&] { dx = parts_[u].backward_input(dx, saved[u], alone_); });
        units_.open_gradients(u);
        parts_[u].backward_weight(saved[u]);  // needs no weights: dA = X' dY
        saved[u] = {};
        units_.reduce(u, m + 1 == microbatches.size());
      }
    }
    return losses;
  }
  // end gradients

  void step() {
    const double shrink = config_.clip > 0 ? std::min(1.0, config_.clip / (units_.norm() + 1e-6)) : 1;
    units_.step(++steps_, config_.lr, shrink);
  }

  const ShardedUnits& units() const { return units_; }
  /// Of each part, in the order of its row. At stage 2 the gradients, at stage 3 the weights too, have no
  /// memory between uses.
  const std::vector<std::vector<Parameter>>& parameters() const { return parameters_; }

 private:
  // begin use
  /// Computes with the whole weights of unit u, while those of unit `next` are on their way.
  template <class Compute>
  void use(std::size_t u, std::size_t next, const Compute& compute) {
    units_.wait_for(u);
    if (config_.prefetch && next < parts_.size()) units_.start(next);
    const Moment began = units_.dp().journal().moment();
    compute();
    units_.dp().journal().span(format("part {}", u), "layer", began);
    units_.drop(u);
  }
  // end use

  ZeroConfig config_;
  const TensorParallel& alone_;
  ShardedUnits units_;
  std::vector<Chunk> parts_;
  std::vector<std::vector<Parameter>> parameters_;
  std::int64_t steps_ = 0;
};

}  // namespace tessera::zero
