// A whole model on every rank, its rows of the batch, and a step:
// forward, backward with the buckets under way, SGD.
#pragma once

#include "06_pipeline/measure.hpp"
#include "07_data_parallel/buckets.hpp"
#include "07_data_parallel/data_parallel.hpp"

namespace tessera::data_parallel {

using pipeline::Chunk;
using pipeline::Model;
using pipeline::Tokens;

class Replica {
 public:
  /// `model` is of the rank's own sequences, with the tokens of the whole batch.
  Replica(const Model& model, const TensorParallel& alone, DType dtype, std::int64_t bucket_bytes,
          const pipeline::MakeWeight& make)
      : alone_(alone), builder_(model, alone, make) {
    const GradientBuffer arena(pipeline::elements_of(model), dtype);
    chunk_ = builder_.chunk({0, model.layers}, true, true);
    gradients_ = arena.all();
    buckets_ = Buckets(gradients_, parameters(), bucket_bytes);
    const MemoryScope scope(MemoryKind::optimizer);
    for (const Parameter& parameter : parameters())
      velocity_.push_back(Tensor::zeros(parameter.value.rows(), parameter.value.cols(), dtype));
  }

  // begin step
  /// Leaves the summed gradients of the whole batch. Returns the sum of this rank's losses, (1, 1).
  Tensor gradients(const Tokens& batch, Communicator& dp) {
    gradients_.zero();
    typename Chunk<>::Saved saved;
    Tensor loss;
    {
      const auto phase = dp.phase("fwd");
      loss = sum_rows(chunk_.forward({}, batch, saved, alone_).local());
    }
    const auto phase = dp.phase("bwd");
    since_ = dp.journal().now();
    auto dx = chunk_.head->backward_input(batch.targets, chunk_.tokens, saved.head, alone_);
    chunk_.head->backward_weight(saved.head);
    ready("ln_f.weight", dp);
    for (std::size_t l = chunk_.blocks.size(); l-- > 0;) {
      dx = chunk_.blocks[l].backward_input(dx, saved.blocks[l], alone_);
      chunk_.blocks[l].backward_weight(saved.blocks[l]);
      saved.blocks[l] = {};
      ready(format("h.{}.ln_1.weight", l), dp);  // this block's and all later gradients are final
    }
    chunk_.embedding->backward(dx, batch.ids, chunk_.positions);
    ready("wte.weight", dp);
    buckets_.finish();
    return loss;
  }
  // end step

  void step(double lr, double momentum) {
    for (std::size_t i = 0; i < velocity_.size(); ++i)
      sgd(parameters()[i].value, velocity_[i], parameters()[i].gradient, lr, momentum);
  }
  const std::vector<Parameter>& parameters() const { return builder_.parameters; }
  const Buckets& buckets() const { return buckets_; }

 private:
  /// The backward has come down to the gradient `first`: a bar of the trace ends, a bucket may start.
  void ready(const std::string& first, Communicator& dp) {
    dp.journal().span("backward to " + first, "layer", since_);
    std::size_t i = 0;
    while (parameters().at(i).name != first) ++i;
    buckets_.ready_from(Buckets::offset(parameters(), i), dp);
    since_ = dp.journal().now();
  }

  const TensorParallel& alone_;
  pipeline::Builder builder_;
  Chunk<> chunk_;
  Tensor gradients_;  // (1, P)  all of them
  Buckets buckets_;
  std::vector<Tensor> velocity_;
  double since_ = 0;  // when the last layer's backward ended
};

}  // namespace tessera::data_parallel
