// One rank's part of a training step: the worker of lesson 06 over tensor-parallel chunks, the all-reduces
// over dp_cp that begin while the last backward still runs, the all-reduce over the embedding group (the tied
// embedding), the norm of all gradients, and the optimiser.
#pragma once

#include "08_three_d/config.hpp"
#include "gpt/checkpoint.hpp"

namespace tessera::three_d {

class Trainer {
 public:
  Trainer(const Mesh& mesh, const TrainingConfig& config, DType dtype, const gpt::MakeWeight& make)
      : mesh_(mesh),
        config_(config),
        tp_(*mesh.tp),
        builder_(config.model, tp_,
                 [this, make](const std::string& name, const Slice& slice) {
                   return placed(make(name, slice), gpt::of_expert(name));
                 }),
        plan_(pipeline::with_asynchronous_sends(
            make_plan(config.schedule, mesh.sizes.pp, config.microbatches, config.chunks))) {
    std::vector<std::int64_t> rows;
    if (config.learns)
      for (const gpt::Part& part : own_rows(config, mesh.place())) rows.push_back(part.elements);
    const int sharers = config.zero > 0 ? mesh.sizes.replicas() : 1;
    // The rows in which the weights and gradients that are made below will lie.
    const GradientBuffer gradients(rows, sharers, dtype, config.zero < 2);
    gradients_ = gradients, weights_ = TensorRow(rows, sharers, dtype, MemoryKind::weight, false);
    if (config.learns) optimizer_ = config.parts.optimizer(config_, mesh);
    if (config.learns && config.zero > 0)
      builder_.around = [optimizer = optimizer_.get()](const auto&... of) { optimizer->around(of...); };
    builder_.ep = mesh.ep.get(), builder_.batch = {mesh.tp.get(), mesh.dp_cp.get()};
    builder_.core = config.parts.core(config.model, *mesh.cp, tp_);
    builder_.positions = cut_tokens(builder_.positions);
    worker_ = config.parts.worker(builder_, config_, mesh_, tp_, dtype);
    if (config.learns) optimizer_->attach(parameters(), rows);
    weights_ = gradients_ = {};
  }

  // begin step
  /// Leaves the gradients of the whole batch for the weights of this rank. Returns the sum of the losses of
  /// this rank's tokens on the last stage, 0 elsewhere. Sets the hooks `gradients_ready` and `reduce`.
  double gradients(const std::vector<Tokens>& microbatches, pipeline::WorkerHooks hooks = {}) {
    optimizer_->zero_gradients();
    hooks.gradients_ready = [&](std::size_t chunk,
                                std::size_t block) {  // earlier layers still compute theirs
      optimizer_->ready_from(builder_.block_start(chunk, block));
    };
    hooks.reduce = [&] {
      optimizer_->ready_from(0);
      optimizer_->finish();
      config_.parts.sum_partials(owned(), tp_);
      if (mesh_.embedding && config_.model.tied)  // the first and the last stage used the same matrix
        embedding().gradient.copy_from(mesh_.embedding->all_reduce(embedding().gradient));
    };
    return worker_->run(plan_[static_cast<std::size_t>(mesh_.pp->rank())], microbatches, hooks);
  }

  // task 08.norm (function, 4 points, 45 min): the root of the sum of squares of all gradients of the model,
  // the same on every rank, each parameter counted once. owned() are this rank's own, each with its name, its
  // gradient, and its slice of the whole. Hint: which ranks have a copy of what? A parameter whose slice is
  // the whole (layer norms, biases behind a sum) lies on every rank of tp; where
  // builder_.has_embedding_copy(), "wte.weight" is a copy. Where config_.zero > 0, the ranks of dp_cp share
  // all out; else each of them has all, but for experts (one.expert), of which only the ranks of one ep group
  // together have all. sum_of_squares adds tensors up at once; an all-reduce of one number over each axis is
  // enough, and bytes are counted.
  double norm() const {
    std::vector<Tensor> own;
    Communicator& replicas = config_.zero > 0 ? *mesh_.dp_cp : *mesh_.ep;  // together they have all once
    for (const Parameter& one : owned()) {
      const bool whole = one.slice == Slice::whole(one.slice.whole_rows, one.slice.whole_cols);
      const bool copied = builder_.has_embedding_copy() && one.name == "wte.weight";
      const bool same = config_.zero == 0 && !one.expert && mesh_.ep->rank() != 0;
      if (copied || same || (whole && mesh_.tp->rank() != 0)) continue;
      own.push_back(one.gradient);
    }
    double squares = sum_of_squares(own);
    for (Communicator* group : {mesh_.tp.get(), mesh_.pp.get(), &replicas}) {
      if (group == mesh_.ep.get() && mesh_.sizes.ep == 1) continue;
      const auto phase = group->phase("norm");
      squares = group->all_reduce(Tensor::of(1, 1, {squares})).values()[0];
    }
    return std::sqrt(squares);
  }
  // end task

  /// One step of the optimiser. Sends nothing but the norm, where gradients are clipped, and the new
  /// weights under lesson 10's stages 1 and 2.
  void step() {
    const double shrink = config_.clip > 0 ? std::min(config_.clip / (norm() + 1e-6), 1.0) : 1;  // keeps NaN
    optimizer_->step(++steps_, shrink);
  }
  // end step

  const std::vector<Parameter>& parameters() const { return builder_.parameters; }
  /// The rows of a microbatch's (N, cols) that rank `rank` of cp has, or this rank.
  Tensor cut_tokens(const Tensor& x, int rank) const {
    return config_.parts.cut_tokens(x, config_.model, rank);
  }
  Tensor cut_tokens(const Tensor& x) const { return cut_tokens(x, mesh_.cp->rank()); }
  /// The rank of cp that has this row of a microbatch, and the row's number among the rows of that rank.
  std::pair<int, std::int64_t> place_of(std::int64_t row) const {
    const std::int64_t all = config_.model.attention.tokens();
    std::vector<double> one_hot(static_cast<std::size_t>(all), 0);
    one_hot[static_cast<std::size_t>(row)] = 1;
    for (int rank = 0;; ++rank) {
      const auto own = cut_tokens(Tensor::of(all, 1, one_hot), rank).values();
      if (const auto at = std::ranges::find(own, 1); at != own.end()) return {rank, at - own.begin()};
    }
  }
  /// This rank's tokens of a microbatch, with ids counted from the first one of its shard of the vocabulary.
  Tokens own_tokens(const Tokens& batch) const {
    const Tensor weights = batch.weights.defined() ? cut_tokens(batch.weights) : Tensor();
    return gpt::local_tokens({cut_tokens(batch.ids), cut_tokens(batch.targets), weights}, config_.model, tp_);
  }
  /// Sends one microbatch through all virtual stages, forward only.
  pipeline::Forward forward(const Tokens& batch) const { return worker_->forward(batch); }
  const Mesh& mesh() const { return mesh_; }
  const data_parallel::Optimizer& optimizer() const { return *optimizer_; }
  std::int64_t steps() const { return steps_; }

  void save(Communicator& world, const std::string& folder,
            const std::map<std::string, std::string>& run) const {
    gpt::save_checkpoint(world, config_.model, parameters(), state(), folder, run);
  }
  /// Continues from a checkpoint; this trainer was made with its weights.
  void resume(const gpt::WeightsFile& checkpoint) {
    steps_ = gpt::load_state(checkpoint, parameters(), state());
  }
  /// All that a step reads and writes.
  gpt::TrainingState state() const {
    std::vector<Tensor> values;
    std::vector<Communicator*> holders;
    for (const Parameter& one : owned())
      values.push_back(one.value), holders.push_back((one.expert ? mesh_.expert_dp : mesh_.dp_cp).get());
    if (!config_.learns) return {{""}, {values}, steps_, std::vector<std::int64_t>(values.size()), holders};
    return {gpt::state_prefixes(true, config_.adamw),
            {values, optimizer_->state[0], optimizer_->state[1]},
            steps_,
            optimizer_->begins,
            holders,
            config_.zero > 0};
  }
  /// The parameters with the gradients of the whole batch. Where replicas share the gradients out, the first
  /// of a parameter's holders gets all of its gradient, and the others have no such entry. Collective.
  std::vector<Parameter> with_gradients() const {
    gpt::TrainingState gradients = state();
    if (!gradients.shared) return parameters();
    std::vector<Parameter> all;
    for (std::size_t i = 0; i < owned().size(); ++i) {
      gradients.tensors[0][i] = owned()[i].gradient;
      const Tensor whole = gradients.whole(0, i);
      if (gradients.holders[i]->rank() != 0) continue;
      const Parameter& one = all.emplace_back(parameters()[i]);
      all.back().gradient = whole.reshape(one.value.rows(), one.value.cols());
    }
    return all;
  }

 private:
  /// Copies a new weight to its place in a row of weights. A row that is full goes to the optimiser at once:
  /// under stage 3 of ZeRO the optimiser keeps a part of it, so that no rank ever holds all weights.
  Tensor placed(const Tensor& made, bool of_expert) {
    if (!config_.learns) return made;
    const Tensor weight = weights_.take(made), row = weights_.all(weights_.row());
    if (weights_.taken() == made.size()) row.restore(), row.zero();  // the first weight in it
    weight.copy_from(made);
    if (weights_.taken() == weights_.elements()[weights_.row()])
      optimizer_->add(row, gradients_.all(weights_.row()), of_expert);
    return weight;
  }
  /// The parameters, each with what this rank steps of its master and of its gradient.
  const std::vector<Parameter>& owned() const { return optimizer_ ? optimizer_->owned : parameters(); }
  const Parameter& embedding() const { return *std::ranges::find(owned(), "wte.weight", &Parameter::name); }

  const Mesh& mesh_;
  TrainingConfig config_;
  TensorParallel tp_;
  gpt::Builder builder_;
  pipeline::Plan plan_;
  std::unique_ptr<pipeline::AnyWorker> worker_;
  TensorRow weights_, gradients_;                        // while they are made; then the optimiser has them
  std::unique_ptr<data_parallel::Optimizer> optimizer_;  // null in a model that does not learn
  std::int64_t steps_ = 0;
};

}  // namespace tessera::three_d
