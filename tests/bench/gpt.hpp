// Lesson 08's trainer on made-up text, cut as wanted.
#pragma once

#include "08_three_d/run.hpp"
#include "bench.hpp"

namespace tessera::bench {

inline three_d::Training training_of(const GptSizes& s, const three_d::ParallelSizes& cut, int microbatches) {
  three_d::Training training;
  training.microbatches = microbatches;
  training.adamw = true;
  training.lr = 1e-4;
  three_d::Model& m = training.model;
  m = {{s.width, s.heads, s.heads, {}}, s.layers, s.vocabulary, s.tokens(), true};
  m.attention.options.seq = s.seq;
  m.attention.options.batch = s.batch / (cut.dp * microbatches);
  return training;
}

inline pipeline::MakeWeight weights_of_gpt(const three_d::Model& model) {
  std::map<std::string, double> scales;
  for (const auto& info : pipeline::weights_of(model)) scales[info.name] = 0.5 * info.scale;
  return [scales](const std::string& name, const Slice& slice) {
    const MemoryScope scope(MemoryKind::weight);
    return three_d::initial(name, slice, DType::f32, 1, scales.at(name));
  };
}

/// One rank's side of it.
class Gpt {
 public:
  Gpt(Communicator& world, const GptSizes& s, const three_d::ParallelSizes& cut, int microbatches)
      : mesh_(world, cut),
        training_(training_of(s, cut, microbatches)),
        trainer_(mesh_, training_, DType::f32, weights_of_gpt(training_.model)) {
    three_d::Config setup;
    setup.sizes = cut;
    setup.training = training_;
    batch_ = three_d::own_microbatches(pipeline::make_tokens(training_.model, 1), setup, mesh_);
  }
  void step() {
    trainer_.gradients(batch_);
    trainer_.step();
  }
  std::int64_t activation_bytes() const { return trainer_.activation_bytes(); }  ///< The most of a step.
  const three_d::Mesh& mesh() const { return mesh_; }
  const three_d::Training& training() const { return training_; }
  const std::vector<pipeline::Tokens>& batch() const { return batch_; }

 private:
  three_d::Mesh mesh_;
  three_d::Training training_;
  three_d::Trainer trainer_;
  std::vector<pipeline::Tokens> batch_;
};

}  // namespace tessera::bench
