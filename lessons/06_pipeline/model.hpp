// A GPT-2 of which a stage holds a part: the embedding on the first stage, blocks, and the head on the last.
// A Chunk is what one virtual stage computes:
// it needs the activations of the chunk before it and nothing else.
#pragma once

#include <functional>
#include <optional>

#include "05_attention_heads/block.hpp"

namespace tessera::pipeline {

using attention_heads::Norm;
using attention_heads::ParallelAttention;
using attention_heads::TransformerBlock;

/// The whole model, and the size of a microbatch (attention.options.batch sequences of .seq tokens).
struct Model {
  attention_heads::AttentionShape attention;  // width W, heads
  std::int64_t layers = 8, vocabulary = 64;
  std::int64_t tokens = 1;  // of the whole batch, over which the loss is the mean
  bool tied = false;        // the head's weight is wte itself, as in GPT-2

  std::int64_t width() const { return attention.width; }
  std::int64_t ffn() const { return 4 * attention.width; }
  std::int64_t rows() const { return attention.tokens(); }  // n, tokens of a microbatch
};

/// A weight by its name in GPT-2: what this rank holds of it, and its gradient. Optimisers, checks and
/// checkpoints read this list.
struct Parameter {
  std::string name;
  Slice slice;
  Tensor value, gradient;
};

/// Makes a rank's slice of a weight.
using MakeWeight = std::function<Tensor(const std::string& name, const Slice& slice)>;

/// One microbatch at an end of the pipeline: ids on the first stage, targets on the last. (n, 1) i32
struct Tokens {
  Tensor ids, targets;
};

/// Token and position embeddings, learnt: x = wte[id] + wpe[position].
struct Embedding {
  Placed<Replicated> wte, wpe;  // (V, W), (seq, W)
  Placed<Replicated> dwte = zero_gradient(wte), dwpe = zero_gradient(wpe);

  Placed<Replicated> forward(const Tensor& ids, const Tensor& positions, const TensorParallel&) const {
    return add(Placed<Replicated>(embedding(ids, wte.local())),
               Placed<Replicated>(embedding(positions, wpe.local())));
  }
  void backward(const Placed<Replicated>& dx, const Tensor& ids, const Tensor& positions) const {
    add_embedding_backward(dwte.local(), dx.local(), ids);
    add_embedding_backward(dwpe.local(), dx.local(), positions);
  }
};

/// Logits = ln_f(x) W', and their cross-entropy with the next tokens.
struct Head {
  Norm ln_f;
  Placed<Replicated> w;  // (V, W)
  Placed<Replicated> dw = zero_gradient(w);

  struct Saved {
    Norm::Saved ln_f;
    CrossEntropy entropy;
    Placed<Replicated> dlogits;
  };

  /// (n, 1): the loss of each token.
  Tensor forward(const Placed<Replicated>& x, const Tensor& targets, Saved& saved,
                 const TensorParallel&) const {
    const auto logits = matmul(ln_f.forward(x, saved.ln_f), t(w));  // (n, V)
    saved.entropy = cross_entropy(logits.local(), targets);
    return saved.entropy.loss;
  }
  /// The loss is the mean over `tokens`, the whole batch's: microbatches and replicas then simply add up.
  Placed<Replicated> backward_input(const Tensor& targets, std::int64_t tokens, Saved& saved,
                                    const TensorParallel&) const {
    saved.dlogits = Placed<Replicated>(cross_entropy_backward(saved.entropy, targets, tokens));
    saved.entropy = {};
    return ln_f.backward_input(matmul(saved.dlogits, w), saved.ln_f);
  }
  void backward_weight(const Saved& saved) const {
    add_matmul(dw, t(saved.dlogits), Placed<Replicated>(saved.ln_f.norm.y));
    ln_f.backward_weight(saved.ln_f);
  }
};

// begin chunk
template <class Embedding = pipeline::Embedding, class Head = pipeline::Head>
struct Chunk {
  std::optional<Embedding> embedding;  // the first chunk's
  std::vector<TransformerBlock<>> blocks;
  std::optional<Head> head;  // the last one's
  Tensor positions;          // (n, 1) i32
  std::int64_t tokens = 1;
  bool recompute = false;  // keep the input alone, and run forward again when the backward comes

  struct Saved {
    Placed<Replicated> x;  // where it is kept for the recomputation
    Tokens batch;
    std::vector<typename TransformerBlock<>::Saved> blocks;
    typename Head::Saved head;
    Placed<Replicated> dx;  // the embedding's
  };

  /// (n, W) -> (n, W), of the first chunk ids -> (n, W), of the last -> (n, 1) losses.
  Placed<Replicated> forward(const Placed<Replicated>& x, const Tokens& batch, Saved& saved,
                             const TensorParallel& tp) const {
    saved.batch = batch;
    if (!recompute) return run(x, saved, tp);
    saved.x = x;
    Saved dropped{{}, batch, {}, {}, {}};
    return run(x, dropped, tp);
  }

  /// dX of the last layer first. `dy` is undefined on the last chunk, whose head makes it.
  Placed<Replicated> backward_input(Placed<Replicated> dy, Saved& saved, const TensorParallel& tp) const {
    if (recompute) run(saved.x, saved, tp);
    if (head) dy = head->backward_input(saved.batch.targets, tokens, saved.head, tp);
    for (std::size_t l = blocks.size(); l-- > 0;) dy = blocks[l].backward_input(dy, saved.blocks[l], tp);
    if (embedding) saved.dx = dy;
    return dy;
  }

  /// Adds to every gradient of the chunk. Nobody waits for it. `done(l)`:
  /// block l and all behind it have added.
  void backward_weight(
      const Saved& saved, const std::function<void(std::size_t)>& done = [](std::size_t) {}) const {
    if (head) head->backward_weight(saved.head);
    done(blocks.size());
    for (std::size_t l = blocks.size(); l-- > 0; done(l)) blocks[l].backward_weight(saved.blocks[l]);
    if (embedding) embedding->backward(saved.dx, saved.batch.ids, positions);
  }

 private:
  Placed<Replicated> run(Placed<Replicated> x, Saved& saved, const TensorParallel& tp) const {
    saved.blocks.resize(blocks.size());
    if (embedding) x = embedding->forward(saved.batch.ids, positions, tp);
    for (std::size_t l = 0; l < blocks.size(); ++l) x = blocks[l].forward(x, saved.blocks[l], tp);
    return head ? Placed<Replicated>(head->forward(x, saved.batch.targets, saved.head, tp)) : x;
  }
};
// end chunk

}  // namespace tessera::pipeline
