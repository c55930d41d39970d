// The worker executes one stage's instructions of schedule.hpp: one switch, and nothing that knows a
// schedule. This file and schedule.hpp are the lesson. Sends are asynchronous; the worker waits for them
// where the plan says so, and its results do not depend on timing. What its chunks are made of is a
// parameter; a message has the placement of the activation in it.
#pragma once

#include <map>

#include "06_pipeline/messages.hpp"
#include "gpt/model.hpp"

namespace tessera::pipeline {

using gpt::Chunk;
using gpt::ModelConfig;
using gpt::Tokens;

/// Functions that the worker calls on its way. None of them changes what the worker computes.
struct WorkerHooks {
  std::function<void(const Instruction&)> before = [](const Instruction&) {};
  std::function<void(const Instruction&)> after = [](const Instruction&) {};
  /// The gradients of a block, and of all that lies behind it in the chunk, are complete.
  std::function<void(std::size_t chunk, std::size_t block)> gradients_ready = [](std::size_t, std::size_t) {};
  /// Every gradient of this stage is complete: the instruction `reduce`.
  std::function<void()> reduce = [] {};
};

/// What a forward pass alone gives on the last stage; undefined on the other stages.
struct Forward {
  Tensor losses, probabilities;  // (n, 1) of all ids, (n, vocab_r) of this rank's
};

/// A worker, whatever its chunks are made of.
class AnyWorker {
 public:
  virtual ~AnyWorker() = default;
  /// Executes `list` on the microbatches. Returns the sum of the losses of all tokens on the last stage, 0 on
  /// the others.
  virtual double run(const Instructions& list, const std::vector<Tokens>& microbatches,
                     const WorkerHooks& hooks = {}) = 0;
  /// Sends one microbatch through all virtual stages, forward only.
  virtual Forward forward(const Tokens& batch) const = 0;
};

template <class Parts = gpt::TensorParallelParts>
class WorkerOf : public AnyWorker {
 public:
  using Chunk = gpt::ChunkOf<Parts>;
  /// `chunks` are those of this stage, the first virtual stage first.
  WorkerOf(Communicator& pp, const TensorParallel& tp, std::vector<Chunk> chunks, const ModelConfig& config,
           DType dtype)
      : pp_(pp), tp_(tp), chunks_(std::move(chunks)), config_(config), dtype_(dtype) {}

  // begin worker
  double run(const Instructions& list, const std::vector<Tokens>& microbatches,
             const WorkerHooks& hooks = {}) override {
    const Tensor loss = Tensor::zeros(1, 1, arithmetic(dtype_));
    finished_.clear();
    for (const Instruction& i : list) {
      const Key key{i.microbatch, i.chunk};
      const Chunk& chunk = chunks_.at(static_cast<std::size_t>(i.chunk));
      const bool forward = i.op == Op::receive || i.op == Op::forward || i.op == Op::send;
      const Phase phase = pp_.phase(forward ? "fwd" : "bwd");
      hooks.before(i);
      switch (i.op) {
        case Op::receive:
        case Op::receive_gradient:
          arrived_[key] = message();
          pp_.recv(arrived_[key].local(), peer(i.op, pp_.rank(), pp_.size()));
          break;
        case Op::forward:
          leaving_[key] = chunk.forward(take(arrived_, key), microbatches[i.microbatch], saved_[key], tp_);
          if (chunk.head) leaving_.erase(key), add_sum_rows(loss, saved_[key].losses);
          break;
        case Op::send:
        case Op::send_gradient:
          sending_[key] = pp_.isend(take(leaving_, key).local(), peer(i.op, pp_.rank(), pp_.size()));
          break;
        case Op::wait:
          sending_.at(key).wait();
          sending_.erase(key);
          break;
        case Op::backward:
        case Op::backward_input:
          leaving_[key] = chunk.backward_input(take(arrived_, key), saved_.at(key), tp_);
          if (chunk.embedding) leaving_.erase(key);  // no stage is before this one
          if (i.op == Op::backward) backward_weight(i, microbatches.size(), hooks);
          break;
        case Op::backward_weight:
          backward_weight(i, microbatches.size(), hooks);
          break;
        case Op::reduce:
          hooks.reduce();
          break;
      }
      hooks.after(i);
    }
    return loss.values()[0];
  }
  // end worker

  /// It returns when the stage has sent its output: the stage can take the next microbatch while this one is
  /// in the stages behind it.
  Forward forward(const Tokens& batch) const override {
    Forward last;
    for (const Chunk& chunk : chunks_) {
      typename Chunk::Saved saved;
      X x;
      if (!chunk.embedding) {
        x = message();
        pp_.recv(x.local(), peer(Op::receive, pp_.rank(), pp_.size()));
      }
      x = chunk.forward(x, batch, saved, tp_);
      if (chunk.head)
        last = {saved.losses, saved.head.entropy.probabilities};
      else
        pp_.send(x.local(), peer(Op::send, pp_.rank(), pp_.size()));
    }
    return last;
  }

  /// Microbatch-chunks whose activations this stage holds now: from their forward to their dW.
  int in_flight() const { return static_cast<int>(saved_.size()); }

 private:
  using Key = std::pair<int, int>;  // microbatch, chunk
  using X = Placed<typename Parts::Residual>;

  /// Room for an activation or its gradient.
  X message() const { return X(Tensor::empty(config_.own_rows(tp_.size()), config_.width(), dtype_)); }

  /// All microbatches add to the same gradients, so those of a chunk are complete with the last microbatch.
  void backward_weight(const Instruction& i, std::size_t microbatches, const WorkerHooks& hooks) {
    const auto chunk = static_cast<std::size_t>(i.chunk);
    const bool last = ++finished_[chunk] == microbatches;
    chunks_[chunk].backward_weight(saved_.at({i.microbatch, i.chunk}), [&](std::size_t block) {
      if (last) hooks.gradients_ready(chunk, block);
    });
    saved_.erase({i.microbatch, i.chunk});
  }
  static X take(std::map<Key, X>& from, const Key& key) {
    X x = from[key];
    from.erase(key);
    return x;
  }

  Communicator& pp_;
  TensorParallel tp_;
  std::vector<Chunk> chunks_;
  ModelConfig config_;
  DType dtype_;
  std::map<Key, typename Chunk::Saved> saved_;
  std::map<Key, X> arrived_;  // inputs, and gradients of outputs, that came from other stages
  std::map<Key, X> leaving_;  // outputs and dX, to be sent
  std::map<Key, Request> sending_;
  std::map<std::size_t, std::size_t> finished_;  // microbatches of each chunk
};
using Worker = WorkerOf<>;

}  // namespace tessera::pipeline
