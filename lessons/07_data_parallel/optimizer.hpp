// The optimiser of a replica: which weights it updates, and how the gradients of all replicas are summed
// before. Here every replica sums all gradients, bucket by bucket, and updates every weight. In lesson 10 the
// replicas share out both.
#pragma once

#include <array>

#include "07_data_parallel/buckets.hpp"

namespace tessera::data_parallel {

/// SGD with momentum, or AdamW. Both use the learning rate constants.lr.
struct Rule {
  bool adamw = false;
  double momentum = 0.9;
  AdamW constants;

  /// How many numbers the rule keeps for each weight.
  std::size_t numbers() const { return adamw ? 2 : 1; }
  void step(const Tensor& master, const std::array<Tensor, 2>& state, const Tensor& gradient,
            std::int64_t number) const {
    if (adamw)
      tessera::adamw(master, state[0], state[1], gradient, constants, number);
    else
      sgd(master, state[0], gradient, constants.lr, momentum);
  }
};

/// An optimiser over the rows of a rank's weights and gradients, with its state.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Takes over a row of weights, which have their initial values, and the row of their gradients. Experts
  /// have rows of their own where the replicas share rows out.
  virtual void add(const Tensor& weights, const Tensor& gradients, bool experts) = 0;
  /// The parameters whose weights lie in all these rows, in their order; `elements`: of each row.
  virtual void attach(const std::vector<Parameter>& parameters,
                      const std::vector<std::int64_t>& elements) = 0;
  /// Runs a pass of a part of the model, which needs the part's whole weights, or its whole gradients.
  virtual void around(gpt::Pass, std::size_t /*part*/, const std::function<void()>& compute) { compute(); }
  /// Comes before the first microbatch of a step.
  virtual void zero_gradients() = 0;
  /// The gradients of parameter `first`, and of all behind it, are complete: their sums may begin.
  virtual void ready_from(std::size_t /*first*/) {}
  /// Waits until all gradients have been summed.
  virtual void finish() = 0;
  /// Step `number` = 1, 2, ... with all gradients scaled by `shrink`.
  virtual void step(std::int64_t number, double shrink) = 0;
  /// How many calls sum all gradients once: those over dp, or those of experts over expert_dp.
  virtual std::size_t sums(bool experts = false) const = 0;

  /// The parameters, each with the part that this rank updates: its master as `value`, and its gradient.
  std::vector<Parameter> owned;
  std::vector<std::int64_t> begins;          // the first element of each that this rank updates
  std::array<std::vector<Tensor>, 2> state;  // of each: velocities; or first and second moments
};

class WholeOptimizer : public Optimizer {
 public:
  WholeOptimizer(const Rule& rule, std::int64_t bucket_bytes, Communicator& dp, Communicator& expert_dp)
      : rule_(rule), bucket_bytes_(bucket_bytes), dp_(dp), expert_dp_(expert_dp) {}

  /// Takes the whole model: `weights` and `gradients` are (1, Psi).
  void add(const Tensor& weights, const Tensor& gradients, bool) override {
    weights_ = weights, gradients_ = gradients;
  }
  void attach(const std::vector<Parameter>& parameters, const std::vector<std::int64_t>&) override {
    buckets_ = Buckets(gradients_, parameters, bucket_bytes_);
    const MemoryScope scope(MemoryKind::optimizer);
    masters_ = cast(weights_, gradients_.dtype());
    begins.resize(parameters.size());
    owned = parameters;
    TensorRow of_weights(weights_), of_gradients(gradients_), of_masters(masters_);
    for (Parameter& one : owned) {  // a step combines what lies at the same place in all rows
      expect(of_weights.take(one.value).raw() == one.value.raw() &&
                 of_gradients.take(one.value).raw() == one.gradient.raw(),
             [&] { return one.name + " and its gradient lie at different places"; });
      one.value = of_masters.take(one.value);
    }
    for (std::size_t k = 0; k < rule_.numbers(); ++k) {
      moments_[k] = Tensor::zeros(1, weights_.size(), gradients_.dtype());
      TensorRow of_moments(moments_[k]);
      for (const Parameter& one : parameters) state[k].push_back(of_moments.take(one.value));
    }
  }
  void zero_gradients() override { gradients_.zero(); }
  void ready_from(std::size_t first) override {
    buckets_.ready_from(Buckets::offset(owned, first), dp_, expert_dp_);
  }
  void finish() override { buckets_.finish(); }
  void step(std::int64_t number, double shrink) override {
    if (shrink < 1) gradients_.copy_from(scale(gradients_, shrink));
    rule_.step(masters_, moments_, gradients_, number);
    store(weights_, masters_);
  }
  std::size_t sums(bool experts) const override { return buckets_.count(experts); }

 private:
  Rule rule_;
  std::int64_t bucket_bytes_;
  Tensor weights_, gradients_;
  Tensor masters_;  // what a step updates: the weights themselves, or f32 copies of weights in bf16
  std::array<Tensor, 2> moments_;
  Buckets buckets_;
  Communicator &dp_, &expert_dp_;
};

}  // namespace tessera::data_parallel
