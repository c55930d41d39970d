// The worker executes a stage's instructions: one switch, and nothing that knows a schedule. Sends are
// posted, and waited for where the plan says so; what comes out does not depend on timing.
#pragma once

#include <algorithm>
#include <map>

#include "06_pipeline/clock.hpp"
#include "06_pipeline/model.hpp"

namespace tessera::pipeline {

/// What a step left on this rank.
struct Trace {
  std::vector<Step> steps;            // seconds since the launch began
  int in_flight = 0;                  // the most microbatch-chunks held between forward and dW
  std::int64_t activation_bytes = 0;  // the most held between two instructions
  double loss = 0;                    // the sum of this rank's losses over all tokens
};

template <class Chunk>
class Worker {
 public:
  /// `chunks`: this stage's. `batch`: the tokens of each microbatch, on the ends of the pipeline.
  Worker(Communicator& pp, const TensorParallel& tp, const std::vector<Chunk>& chunks, const Model& model,
         DType dtype)
      : pp_(pp), tp_(tp), chunks_(chunks), model_(model), dtype_(dtype) {}

  /// Called where the gradients of a block, and of all behind it in the chunk, are final.
  using OnGradientsReady = std::function<void(std::size_t chunk, std::size_t block)>;

  // begin worker
  Trace run(
      const Instructions& list, const std::vector<Tokens>& batch, const Pace& pace,
      const std::function<void()>& reduce = [] {},
      const OnGradientsReady& on_gradients_ready = [](std::size_t, std::size_t) {}) {
    const Tensor loss = Tensor::zeros(1, 1, dtype_);  // summed where the head is
    Clock clock(pp_.journal(), pace);
    Trace trace;
    for (const Instruction& i : list) {
      const Key key{i.microbatch, i.chunk};
      const auto chunk = static_cast<std::size_t>(i.chunk);
      const bool forward = i.op == Op::receive || i.op == Op::forward || i.op == Op::send;
      const Phase phase = pp_.phase(forward ? "fwd" : "bwd");
      clock.begin(i);
      switch (i.op) {
        case Op::receive:
        case Op::receive_gradient: {
          arrived_[key] = Placed<Replicated>(Tensor::empty(model_.rows(), model_.width(), dtype_));
          pp_.recv(arrived_[key].local(), peer(i.op, pp_.rank(), pp_.size()));
          break;
        }
        case Op::forward: {
          leaving_[key] = chunks_[chunk].forward(take(arrived_, key), batch[i.microbatch], saved_[key], tp_);
          if (chunks_[chunk].head) add_sum_rows(loss, take(leaving_, key).local());
          break;
        }
        case Op::send:
        case Op::send_gradient: {
          sending_[key] = pp_.isend(take(leaving_, key).local(), peer(i.op, pp_.rank(), pp_.size()));
          break;
        }
        case Op::wait:
          sending_.at(key).wait();
          sending_.erase(key);
          break;
        case Op::backward:
        case Op::backward_input: {
          leaving_[key] = chunks_[chunk].backward_input(take(arrived_, key), saved_.at(key), tp_);
          if (chunks_[chunk].embedding) leaving_.erase(key);  // nobody is before it
          if (i.op == Op::backward) finish(chunk, key, batch.size(), on_gradients_ready);
          break;
        }
        case Op::backward_weight:
          finish(chunk, key, batch.size(), on_gradients_ready);
          break;
        case Op::reduce:
          reduce();
          break;
      }
      clock.end();
      trace.in_flight = std::max(trace.in_flight, static_cast<int>(saved_.size()));
      trace.activation_bytes =
          std::max(trace.activation_bytes, Device::current()->memory.now(MemoryKind::activation));
    }
    trace.steps = clock.steps();
    trace.loss = loss.values()[0];
    return trace;
  }
  // end worker

 private:
  using Key = std::pair<int, int>;  // microbatch, chunk

  void finish(std::size_t chunk, const Key& key, std::size_t microbatches,
              const OnGradientsReady& on_gradients_ready) {
    const bool last = ++finished_[chunk] == microbatches;  // the others added to the same gradients
    chunks_[chunk].backward_weight(saved_.at(key), [&](std::size_t block) {
      if (last) on_gradients_ready(chunk, block);
    });
    saved_.erase(key);
  }
  static Placed<Replicated> take(std::map<Key, Placed<Replicated>>& from, const Key& key) {
    Placed<Replicated> x = from[key];
    from.erase(key);
    return x;
  }

  Communicator& pp_;
  const TensorParallel& tp_;
  const std::vector<Chunk>& chunks_;
  const Model& model_;
  DType dtype_;
  std::map<Key, typename Chunk::Saved> saved_;
  std::map<Key, Placed<Replicated>> arrived_,
      leaving_;  // inputs and gradients that came, outputs and dX to send
  std::map<Key, Request> sending_;
  std::map<std::size_t, std::size_t> finished_;  // microbatches of each chunk
};

}  // namespace tessera::pipeline
