// One rank's part of a training step: the pipeline's worker over tensor-parallel chunks, the sums over dp
// that begin while its last backward still runs, the sum over the ends (the tied embedding),
// the norm, and the optimiser.
#pragma once

#include <numeric>

#include "06_pipeline/measure.hpp"
#include "06_pipeline/sends.hpp"
#include "07_data_parallel/buckets.hpp"
#include "08_three_d/gpt.hpp"

namespace tessera::three_d {

using pipeline::Tokens;

class Trainer {
 public:
  Trainer(Mesh& mesh, const Training& training, DType dtype, const pipeline::MakeWeight& make)
      : mesh_(mesh),
        training_(training),
        tp_(*mesh.tp),
        builder_(training.model, tp_, make),
        plan_(pipeline::with_asynchronous_sends(
            make_plan(training.schedule, mesh.sizes.pp, training.microbatches, training.chunks))) {
    const int stages = mesh.sizes.pp, all = stages * training.chunks;
    const auto partition = pipeline::even_partition(training.model.layers, all);
    std::int64_t elements = 0;
    std::vector<std::pair<Range, int>> own;  // layers, virtual stage
    for (int c = 0; c < training.chunks; ++c) {
      const int at = pipeline::virtual_stage(c, mesh.pp->rank(), stages);
      const std::int64_t begin = std::accumulate(partition.begin(), partition.begin() + at, std::int64_t{0});
      own.push_back({{begin, begin + partition[static_cast<std::size_t>(at)]}, at});
    }
    for (const auto& [layers, at] : own)
      elements +=
          own_elements(training.model, layers.size(), at == 0, at == all - 1, mesh.tp->rank(), mesh.sizes.tp);
    const GradientBuffer arena(training.learns ? elements : 0, dtype);
    for (const auto& [layers, at] : own) chunks_.push_back(builder_.chunk(layers, at == 0, at == all - 1));
    gradients_ = arena.all();
    if (!training.learns) return;
    buckets_ = data_parallel::Buckets(gradients_, parameters(), training.bucket);
    const MemoryScope scope(MemoryKind::optimizer);
    for (const Parameter& one : parameters())
      for (auto* state : {&first_, &second_})
        if (state == &first_ || training.adamw)
          state->push_back(Tensor::zeros(one.value.rows(), one.value.cols(), dtype));
  }

  static constexpr int code_line = __LINE__ + 2;
  // begin step
  /// Gradients of the whole batch, of this rank's weights. Returns the sum of the losses of its tokens: on
  /// the last stage, 0 elsewhere.
  double gradients(const std::vector<Tokens>& microbatches) {
    gradients_.zero();
    pipeline::Worker<Chunk> worker(*mesh_.pp, tp_, chunks_, training_.model, gradients_.dtype());
    const auto on_gradients_ready = [&](std::size_t chunk,
                                        std::size_t block) {  // the layers before it still compute
      buckets_.ready_from(data_parallel::Buckets::offset(parameters(), builder_.first_of(chunk, block)),
                          *mesh_.dp);
    };
    const auto reduce = [&] {
      buckets_.ready_from(0, *mesh_.dp);
      buckets_.finish();
      if (mesh_.embedding)  // first and last stage used the same matrix
        tied().gradient.copy_from(mesh_.embedding->all_reduce(tied().gradient));
    };
    const pipeline::Trace trace = worker.run(plan_[static_cast<std::size_t>(mesh_.pp->rank())], microbatches,
                                             {}, reduce, on_gradients_ready);
    activation_bytes_ = trace.activation_bytes;
    return trace.loss;
  }

  // task 08.norm (function, 4 points, 45 min): the norm of all gradients, each parameter counted once.
  // Hint: who has a copy of what? Norms and biases behind a sum lie on every rank of tp,
  // the tied embedding on two stages, everything on every rank of dp.
  double norm() const {
    double squares = 0;
    for (std::size_t i = 0; i < parameters().size(); ++i) {
      const Parameter& one = parameters()[i];
      const bool whole = one.slice == Slice::whole(one.slice.whole_rows, one.slice.whole_cols);
      const bool copied = builder_.has_copy() && one.name == "wte.weight";
      if (copied || (whole && mesh_.tp->rank() != 0)) continue;
      const Tensor row = one.gradient.reshape(1, one.gradient.size());
      squares += matmul(row, t(row)).values()[0];
    }
    for (Communicator* group : {mesh_.tp.get(), mesh_.pp.get()}) {
      const auto phase = group->phase("norm");
      squares = group->all_reduce(Tensor::of(1, 1, {squares})).values()[0];
    }
    return std::sqrt(squares);
  }
  // end task

  void step() {
    ++steps_;
    double shrink = 1;
    if (training_.clip > 0) shrink = std::min(1.0, training_.clip / (norm() + 1e-6));
    if (shrink < 1) gradients_.copy_from(scale(gradients_, shrink));
    for (std::size_t i = 0; i < parameters().size(); ++i) {
      const Parameter& one = parameters()[i];
      if (training_.adamw)
        adamw(one.value, first_[i], second_[i], one.gradient, {.lr = training_.lr}, steps_);
      else
        sgd(one.value, first_[i], one.gradient, training_.lr, 0.9);
    }
  }
  // end step

  const std::vector<Parameter>& parameters() const { return builder_.parameters; }
  const Model& model() const { return training_.model; }
  const std::vector<Chunk>& chunks() const { return chunks_; }
  const TensorParallel& tp() const { return tp_; }
  const Mesh& mesh() const { return mesh_; }
  const data_parallel::Buckets& buckets() const { return buckets_; }
  DType dtype() const { return gradients_.dtype(); }
  std::int64_t activation_bytes() const { return activation_bytes_; }  ///< The most of the last step.
  std::int64_t steps() const { return steps_; }
  void resume_at(std::int64_t steps) { steps_ = steps; }
  /// All that a step reads and writes, by the prefix of its names in a checkpoint,
  /// in the order of the parameters.
  std::vector<std::pair<std::string, std::vector<Tensor>>> state() const {
    std::vector<Tensor> values;
    for (const Parameter& one : parameters()) values.push_back(one.value);
    if (!training_.learns) return {{"", values}};
    if (!training_.adamw) return {{"", values}, {"optimizer.velocity.", first_}};
    return {{"", values}, {"optimizer.m.", first_}, {"optimizer.v.", second_}};
  }

 private:
  const Parameter& tied() const {
    return *std::find_if(parameters().begin(), parameters().end(),
                         [](const Parameter& one) { return one.name == "wte.weight"; });
  }

  Mesh& mesh_;
  Training training_;
  TensorParallel tp_;
  GptBuilder builder_;
  pipeline::Plan plan_;
  std::vector<Chunk> chunks_;
  Tensor gradients_;  // (1, P_r)  all of this rank's
  data_parallel::Buckets buckets_;
  std::vector<Tensor> first_, second_;  // the optimiser's state
  std::int64_t steps_ = 0, activation_bytes_ = 0;
};

}  // namespace tessera::three_d
