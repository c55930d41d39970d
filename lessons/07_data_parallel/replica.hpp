// A training step of data parallelism: every rank holds the whole model and its own sequences of the batch.
// The gradients are summed in buckets while the backward still computes those of the layers before.
#pragma once

#include "07_data_parallel/buckets.hpp"
#include "07_data_parallel/data_parallel.hpp"
#include "app/gather.hpp"

namespace tessera::data_parallel {

using gpt::Chunk;
using gpt::ModelConfig;
using gpt::Tokens;

class Replica {
 public:
  /// `config` has the sequences of this rank and the tokens of the whole batch; `alone` is a group of one
  /// rank.
  Replica(const ModelConfig& config, const TensorParallel& alone, DType dtype, std::int64_t bucket_bytes,
          const gpt::MakeWeight& make)
      : alone_(alone), builder_(config, alone, make) {
    const GradientBuffer buffer(gpt::elements_of(config), dtype);  // where the gradients made below will lie
    chunk_ = builder_.chunk({0, config.layers}, true, true);
    gradients_ = buffer.all();
    buckets_ = Buckets(gradients_, parameters(), bucket_bytes);
    const MemoryScope scope(MemoryKind::optimizer);
    for (const Parameter& one : parameters()) {
      masters_.push_back(cast(one.value, gradients_.dtype()));
      velocity_.push_back(Tensor::zeros(one.value.rows(), one.value.cols(), gradients_.dtype()));
    }
  }

  // begin step
  /// Leaves the gradients of the whole batch on every rank. Returns the loss, the mean over all its tokens.
  double gradients(const Tokens& batch, Communicator& dp) {
    gradients_.zero();
    Chunk::Saved saved;
    Tensor loss;
    {
      const auto phase = dp.phase("fwd");
      chunk_.forward({}, batch, saved, alone_);
      loss = sum_rows(saved.losses);
    }
    const auto phase = dp.phase("bwd");
    since_ = dp.journal().moment();
    auto dx = chunk_.head->backward_input(batch.targets, chunk_.tokens, saved.head, alone_);
    chunk_.head->backward_weight(saved.head);
    ready("ln_f.weight", dp);
    for (std::size_t l = chunk_.blocks.size(); l-- > 0;) {
      dx = chunk_.blocks[l].backward_input(dx, saved.blocks[l], alone_);
      chunk_.blocks[l].backward_weight(saved.blocks[l]);
      saved.blocks[l] = {};
      ready(format("h.{}.ln_1.weight", l), dp);  // all gradients from this block on are complete
    }
    chunk_.embedding->backward(dx, batch.ids, chunk_.positions);
    ready("wte.weight", dp);
    buckets_.finish();
    return sum_over(dp, loss.values()[0]) / static_cast<double>(chunk_.tokens);
  }
  // end step

  /// One step of SGD with what `gradients` has left.
  void step(double lr, double momentum) {
    for (std::size_t i = 0; i < velocity_.size(); ++i) {
      sgd(masters_[i], velocity_[i], parameters()[i].gradient, lr, momentum);
      store(parameters()[i].value, masters_[i]);
    }
  }
  const std::vector<Parameter>& parameters() const { return builder_.parameters; }
  const Buckets& buckets() const { return buckets_; }

 private:
  /// The gradients of parameter `first` and of all behind it are complete: the bar of this layer ends in the
  /// trace, and a bucket may start.
  void ready(const std::string& first, Communicator& dp) {
    dp.journal().span("backward to " + first, "layer", since_);
    std::size_t i = 0;
    while (parameters().at(i).name != first) ++i;
    buckets_.ready_from(Buckets::offset(parameters(), i), dp);
    since_ = dp.journal().moment();
  }

  const TensorParallel& alone_;
  gpt::Builder builder_;
  Chunk chunk_;
  Tensor gradients_;  // (1, Psi)  of all parameters, in their order
  Buckets buckets_;
  std::vector<Tensor> masters_, velocity_;
  Moment since_;  // when the last layer's backward ended
};

}  // namespace tessera::data_parallel
