// Lesson 08's trainer on made-up text, cut as wanted; and attention by itself.
#pragma once

#include "08_three_d/generate.hpp"
#include "bench.hpp"
#include "ops/attention.hpp"

namespace tessera::bench {

inline GptSizes sizes_of(const Options& o) {
  if (o.quick) return {.width = 32, .vocabulary = 256, .batch = 4, .seq = 16, .tied = true};
  if (o.cuda())
    return {
        .width = 768, .heads = 12, .layers = 12, .vocabulary = 50257, .batch = 8, .seq = 1024, .tied = true};
  return {.width = 256, .heads = 4, .layers = 4, .vocabulary = 256, .batch = 8, .seq = 128, .tied = true};
}

inline three_d::Config config_of(const GptSizes& s, const three_d::ParallelSizes& cut, int microbatches) {
  three_d::Config config;
  config.sizes = cut;
  three_d::TrainingConfig& training = config.training;
  training.microbatches = microbatches;
  training.adamw = true;
  training.lr = 1e-4;
  training.model = test::model_of(s);
  training.model.attention.options.batch = s.batch / (cut.dp * microbatches);
  return config;
}

inline gpt::MakeWeight weights_of_gpt(const gpt::ModelConfig& model, DType dtype = DType::f32) {
  return
      [make = gpt::initial_weights(model, nullptr, dtype, 1)](const std::string& name, const Slice& slice) {
        const MemoryScope scope(MemoryKind::weight);
        return make(name, slice);
      };
}

/// One rank's side of a training run.
class Gpt {
 public:
  Gpt(Communicator& world, const GptSizes& s, const three_d::ParallelSizes& cut, int microbatches,
      DType dtype = DType::f32)
      : Gpt(world, config_of(s, cut, microbatches), dtype) {}
  Gpt(Communicator& world, const three_d::Config& config, DType dtype = DType::f32)
      : mesh_(world, config.sizes),
        training_(config.training),
        trainer_(mesh_, training_, dtype, weights_of_gpt(training_.model, dtype)),
        batch_(three_d::own_microbatches(gpt::random_tokens(training_.model, 1), config, trainer_)) {}
  void step() {
    trainer_.gradients(batch_);
    trainer_.step();
  }
  const three_d::Mesh& mesh() const { return mesh_; }
  const three_d::TrainingConfig& training() const { return training_; }
  const std::vector<gpt::Tokens>& batch() const { return batch_; }

 private:
  three_d::Mesh mesh_;
  three_d::TrainingConfig training_;
  three_d::Trainer trainer_;
  std::vector<gpt::Tokens> batch_;
};

/// Causal attention by itself, forward and backward, in either form.
class AttentionJob {
 public:
  AttentionJob(const GptSizes& s, AttentionOptions::Form form, DType dtype = DType::f32)
      : width_(s.width),
        qkv_(numbers(s.tokens(), 3 * s.width, 1, dtype)),
        dy_(numbers(s.tokens(), s.width, 1, dtype)),
        dqkv_(numbers(s.tokens(), 3 * s.width, 1, dtype)) {
    options_.batch = s.batch;
    options_.seq = s.seq;
    options_.heads = options_.kv_heads = s.heads;
    options_.form = form;
  }

  /// Returns the bytes that it keeps from the forward to the backward, beside its arguments and its result.
  double operator()() const {
    AttentionSaved saved;
    attention(part(qkv_, 0), part(qkv_, 1), part(qkv_, 2), options_, saved);
    const double kept = static_cast<double>((saved.p.defined() ? saved.p : saved.log_sum).bytes());
    attention_backward(dy_, saved, options_, part(dqkv_, 0), part(dqkv_, 1), part(dqkv_, 2));
    return kept;
  }

 private:
  Tensor part(const Tensor& x, int i) const { return x.column_range(i * width_, (i + 1) * width_); }

  std::int64_t width_;
  Tensor qkv_, dy_, dqkv_;
  AttentionOptions options_;
};

}  // namespace tessera::bench
