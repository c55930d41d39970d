// One rank's part of a training step: the worker of lesson 06 over tensor-parallel chunks, the all-reduces
// over dp that begin while the last backward still runs, the all-reduce over the embedding group (the tied
// embedding), the norm of all gradients, and the optimiser.
#pragma once

#include "07_data_parallel/buckets.hpp"
#include "08_three_d/config.hpp"
#include "gpt/checkpoint.hpp"

namespace tessera::three_d {

class Trainer {
 public:
  Trainer(const Mesh& mesh, const TrainingConfig& config, DType dtype, const gpt::MakeWeight& make)
      : mesh_(mesh),
        config_(config),
        tp_(*mesh.tp),
        builder_(config.model, tp_, [this, make](const auto&... of) { return placed(make(of...)); }),
        plan_(pipeline::with_asynchronous_sends(
            make_plan(config.schedule, mesh.sizes.pp, config.microbatches, config.chunks))) {
    const int stages = mesh.sizes.pp, all = stages * config.chunks;
    const auto partition = config.partition(stages);
    const auto virtual_stage = [&](int chunk) {
      return pipeline::virtual_stage(chunk, mesh.pp->rank(), stages);
    };
    std::int64_t elements = 0;
    for (int c = 0; c < config.chunks && config.learns; ++c)
      elements +=
          gpt::own_elements(config.model, pipeline::layers_of(partition, virtual_stage(c)).size(),
                            virtual_stage(c) == 0, virtual_stage(c) == all - 1, tp_.rank(), tp_.size());
    const GradientBuffer buffer(elements, dtype);  // where the gradients made below will lie
    weights_ = TensorRow(elements, dtype, MemoryKind::weight);
    worker_ = config.parts.worker(builder_, config_, mesh_, tp_, dtype);
    gradients_ = buffer.all();
    if (!config.learns) return;
    buckets_ = data_parallel::Buckets(gradients_, parameters(), config.bucket);
    const MemoryScope scope(MemoryKind::optimizer);
    const auto split = [&](const Tensor& row) {
      TensorRow tensors(row);
      std::vector<Tensor> parts;
      for (const Parameter& one : parameters()) parts.push_back(tensors.take(one.value));
      return parts;
    };
    masters_ = cast(weights_.all(), gradients_.dtype());
    master_of_ = split(masters_);
    for (std::size_t i = 0; i < (config.adamw ? 2 : 1); ++i) {
      moments_[i] = Tensor::zeros(1, elements, gradients_.dtype());
      optimizer_state_[i] = split(moments_[i]);
    }
    const std::vector<Tensor> weights = split(weights_.all()), gradients = split(gradients_);
    for (std::size_t i = 0; i < weights.size(); ++i)  // a step takes the elements at one place of all rows
      expect(weights[i].raw() == parameters()[i].value.raw() &&
                 gradients[i].raw() == parameters()[i].gradient.raw(),
             [&] { return parameters()[i].name + " and its gradient lie at different places"; });
  }

  // begin step
  /// Leaves the gradients of the whole batch for the weights of this rank. Returns the sum of the losses of
  /// its tokens on the last stage, 0 elsewhere. Adds to `hooks` what the step itself needs to know.
  double gradients(const std::vector<Tokens>& microbatches, pipeline::WorkerHooks hooks = {}) {
    gradients_.zero();
    hooks.gradients_ready = [&](std::size_t chunk,
                                std::size_t block) {  // earlier layers still compute theirs
      const std::size_t first = builder_.block_start(chunk, block);
      buckets_.ready_from(data_parallel::Buckets::offset(parameters(), first), *mesh_.dp);
    };
    hooks.reduce = [&] {
      buckets_.ready_from(0, *mesh_.dp);
      buckets_.finish();
      config_.parts.sum_partials(parameters(), tp_);
      if (mesh_.embedding)  // the first and the last stage used the same matrix
        embedding().gradient.copy_from(mesh_.embedding->all_reduce(embedding().gradient));
    };
    return worker_->run(plan_[static_cast<std::size_t>(mesh_.pp->rank())], microbatches, hooks);
  }

  // task 08.norm (function, 4 points, 45 min): the root of the sum of squares of all gradients of the model,
  // the same on every rank, each parameter counted once. parameters() are this rank's own, each with its
  // name, its gradient, and its slice of the whole. Hint: which ranks have a copy of what? A parameter whose
  // slice is the whole (layer norms, biases behind a sum) lies on every rank of tp; where
  // builder_.has_embedding_copy(), "wte.weight" is a copy; all of it lies on every rank of dp.
  // sum_of_squares adds tensors up at once; two all-reduces of one number are enough.
  double norm() const {
    std::vector<Tensor> own;
    for (const Parameter& one : parameters()) {
      const bool whole = one.slice == Slice::whole(one.slice.whole_rows, one.slice.whole_cols);
      const bool copied = builder_.has_embedding_copy() && one.name == "wte.weight";
      if (copied || (whole && mesh_.tp->rank() != 0)) continue;
      own.push_back(one.gradient);
    }
    double squares = sum_of_squares(own);
    for (Communicator* group : {mesh_.tp.get(), mesh_.pp.get()}) {
      const auto phase = group->phase("norm");
      squares = group->all_reduce(Tensor::of(1, 1, {squares})).values()[0];
    }
    return std::sqrt(squares);
  }
  // end task

  /// One step of the optimiser. Sends nothing but the norm, where gradients are clipped.
  void step() {
    ++steps_;
    double shrink = 1;
    if (config_.clip > 0) shrink = std::min(1.0, config_.clip / (norm() + 1e-6));
    if (shrink < 1) gradients_.copy_from(scale(gradients_, shrink));
    const auto& [first, second] = moments_;
    AdamW constants = config_.constants;
    constants.lr = config_.lr;
    if (config_.adamw)
      adamw(masters_, first, second, gradients_, constants, steps_);
    else
      sgd(masters_, first, gradients_, config_.lr, config_.momentum);
    store(weights_.all(), masters_);
  }
  // end step

  const std::vector<Parameter>& parameters() const { return builder_.parameters; }
  const ModelConfig& model() const { return config_.model; }
  /// Sends one microbatch through all virtual stages, forward only.
  pipeline::Forward forward(const Tokens& batch) const { return worker_->forward(batch); }
  const TensorParallel& tp() const { return tp_; }
  const Mesh& mesh() const { return mesh_; }
  const data_parallel::Buckets& buckets() const { return buckets_; }
  DType dtype() const { return parameters().front().value.dtype(); }
  std::int64_t steps() const { return steps_; }

  void save(Communicator& world, const std::string& folder,
            const std::map<std::string, std::string>& run) const {
    gpt::save_checkpoint(world, mesh_.dp->rank() == 0, config_.model, parameters(), state(), folder, run);
  }
  /// Goes on from a checkpoint of whose weights this trainer was made.
  void resume(const gpt::WeightsFile& checkpoint) {
    steps_ = gpt::load_state(checkpoint, parameters(), state());
    if (config_.learns) store(weights_.all(), masters_);
  }
  /// All that a step reads and writes.
  gpt::TrainingState state() const {
    std::vector<Tensor> values;
    for (const Parameter& one : parameters()) values.push_back(one.value);
    return {gpt::state_prefixes(config_.learns, config_.adamw),
            {config_.learns ? master_of_ : values, optimizer_state_[0], optimizer_state_[1]},
            steps_};
  }

 private:
  /// A new weight in the row of all weights, where one call of the optimiser steps all of them.
  Tensor placed(const Tensor& made) {
    if (!config_.learns) return made;
    const Tensor weight = weights_.take(made);
    weight.copy_from(made);
    return weight;
  }
  const Parameter& embedding() const {
    return *std::find_if(parameters().begin(), parameters().end(),
                         [](const Parameter& one) { return one.name == "wte.weight"; });
  }

  const Mesh& mesh_;
  TrainingConfig config_;
  TensorParallel tp_;
  gpt::Builder builder_;
  pipeline::Plan plan_;
  std::unique_ptr<pipeline::AnyWorker> worker_;
  TensorRow weights_;
  Tensor gradients_;  // (1, P_r)  of all parameters of this rank, in their order, as in the other rows
  data_parallel::Buckets buckets_;
  Tensor masters_;  // what the optimiser steps: the weights themselves, or f32 of those in bf16
  std::array<Tensor, 2> moments_;  // velocities; or first and second moments
  std::vector<Tensor> master_of_;  // the parts of each parameter in these rows
  std::array<std::vector<Tensor>, 2> optimizer_state_;
  std::int64_t steps_ = 0;
};

}  // namespace tessera::three_d
