// A GPT-2 of which a rank holds a part: the model that lessons 06 and later cut. A Chunk is what one virtual
// stage of a pipeline computes: the embedding if it is the first, some blocks, and the head if it is the
// last. It needs the activations of the chunk before it and nothing else. Inside a chunk every matrix is cut
// over the tensor-parallel ranks as in lesson 05; with one rank these cuts are the whole.
#pragma once

#include <functional>
#include <optional>

#include "05_attention_heads/block.hpp"
#include "05_attention_heads/vocab_parallel.hpp"
#include "tensor/error.hpp"

namespace tessera::gpt {

/// How a rank gets the keys and values of other ranks' tokens: lesson 11.
enum class Way { ring, gather, ulysses };
/// How many columns of K and V together Ulysses sends: every rank that uses a kv head gets a copy of it.
inline std::int64_t copied_kv(const attention_heads::AttentionShape& s, std::int64_t ranks) {
  return 2 * std::max(s.kv_heads, ranks) * s.head_width();
}

/// The whole model, and the size of a microbatch: attention.options.batch sequences of .seq tokens.
struct ModelConfig {
  attention_heads::AttentionShape attention;  // width W, heads
  std::int64_t layers = 8, vocabulary = 64;
  std::int64_t tokens = 1;                           // of the whole batch: the loss is the mean over them
  bool tied = false;                                 // the head's weight is wte itself, as in GPT-2
  bool sequence_parallel = false, regather = false;  // lesson 09
  int cp = 1;                                        // ranks that share the tokens of a sequence: lesson 11
  Way way = Way::ring;
  bool zigzag = true;
  std::int64_t experts = 0, top_k = 1;  // replace the MLP of every second block: lesson 12
  int ep = 1;                           // ranks that share the experts out
  double aux = 0;                       // the factor of their auxiliary loss
  double layer_norm_epsilon = 1e-5;
  std::int64_t positions = 0;  // rows of wpe, if it has more than seq
  std::int64_t inner = 0;      // F, the columns inside the MLP; 0: 4 W

  std::int64_t width() const { return attention.width; }
  std::int64_t ffn() const { return inner > 0 ? inner : 4 * attention.width; }
  std::int64_t rows() const { return attention.tokens() / cp; }  // n, a rank's tokens of a microbatch
  std::int64_t seq() const { return attention.options.seq; }
  bool has_experts(std::int64_t layer) const { return experts > 0 && layer % 2 == 1; }
  std::int64_t expert_layers() const { return experts > 0 ? layers / 2 : 0; }
  std::int64_t wpe_rows() const { return std::max(positions, seq()); }
  /// The rows that each of `tp` ranks holds between two blocks.
  std::int64_t own_rows(int tp) const { return sequence_parallel ? rows() / tp : rows(); }
};

/// A pass of one part of a chunk (embedding, block or head), and a hook that runs it: it calls `compute`.
/// Lesson 10's hook gathers the part's weights before the pass and frees them after it.
enum class Pass { forward, backward_input, backward_weight };
using Around = std::function<void(Pass, std::size_t part, const std::function<void()>& compute)>;

/// What a chunk is made of. Lesson 09 has other parts with the same functions.
struct TensorParallelParts {
  using Residual = Replicated;  // the placement of an activation between two blocks
  using Embedding = attention_heads::VocabParallelEmbedding;
  using Block = attention_heads::TransformerBlock<>;
  using Head = attention_heads::VocabParallelHead;
  /// The gradient of all tokens, which the embedding needs.
  static Placed<Replicated> all_tokens(const Placed<Residual>& dx, const TensorParallel&) { return dx; }
  static void set_up(Block&, const ModelConfig&, const TensorParallel&) {}  // lesson 09 sets first_row
};

/// A weight by its name in GPT-2: the slice of it that this rank holds, and the gradient of that slice.
/// Optimisers, checks and checkpoints read this list.
struct Parameter {
  std::string name;
  Slice slice;
  Tensor value, gradient;
  bool partial = false;  // the gradient is a term of a sum over tp, which is owed once a step
  bool expert = false;   // a weight of an expert: only the ranks of expert_dp hold the same one
};

/// Makes a rank's slice of a weight.
using MakeWeight = std::function<Tensor(const std::string& name, const Slice& slice)>;

/// One microbatch at the ends of the pipeline: ids on the first stage, targets on the last. (n, 1) i32
struct Tokens {
  Tensor ids, targets;
  Tensor weights;  // (n, 1) f64  the weight of each token's loss in the mean; undefined: all are 1
};

// begin chunk
template <class Parts = TensorParallelParts>
struct ChunkOf {
  using Residual = typename Parts::Residual;
  std::optional<typename Parts::Embedding> embedding;  // of the first chunk
  std::vector<typename Parts::Block> blocks;
  std::optional<typename Parts::Head> head;  // of the last chunk
  Tensor positions;                          // (n, 1) i32
  std::int64_t tokens = 1;                   // of the whole batch
  bool recompute = false;                    // keep the input alone, and run forward again in the backward
  // Around each pass of a part: 0 is the embedding, then come the blocks, then the head.
  Around around = [](Pass, std::size_t, const std::function<void()>& compute) { compute(); };

  /// What the backward needs of one microbatch.
  struct Saved {
    Placed<Residual> x;  // (n, W)  the input, where it is kept for the recomputation
    Tokens batch;
    std::vector<typename Parts::Block::Saved> blocks;
    typename Parts::Head::Saved head;
    Tensor losses;          // (n, 1)  of the last chunk, until the backward begins
    Placed<Replicated> dx;  // (n, W)  what the embedding's backward needs
  };

  /// (n, W) -> (n, W). The first chunk computes x from ids; the last leaves the losses in `saved`.
  Placed<Residual> forward(const Placed<Residual>& x, const Tokens& batch, Saved& saved,
                           const TensorParallel& tp) const {
    saved.batch = batch;
    if (!recompute) return run(x, saved, tp);
    saved.x = x;
    Saved dropped{{}, batch, {}, {}, {}, {}};
    const auto y = run(x, dropped, tp);
    saved.losses = dropped.losses;
    return y;
  }

  /// (n, W) -> (n, W), from the last layer to the first. `dy` is undefined on the last chunk, whose head
  /// makes it from the loss.
  Placed<Residual> backward_input(Placed<Residual> dy, Saved& saved, const TensorParallel& tp) const {
    if (recompute) run(saved.x, saved, tp);
    saved.losses = {};
    const auto pass = Pass::backward_input;
    const std::size_t last = blocks.size() + 1;
    if (head)
      around(pass, last, [&] { dy = head->backward_input(saved.batch.targets, tokens, saved.head, tp); });
    for (std::size_t l = blocks.size(); l-- > 0;)
      around(pass, l + 1, [&] { dy = blocks[l].backward_input(dy, saved.blocks[l], tp); });
    if (embedding) saved.dx = Parts::all_tokens(dy, tp);
    return dy;
  }

  /// Adds to every gradient of the chunk. No other stage waits for it. Calls done(l) when the gradients of
  /// block l, and of all that lies behind it, are complete; l = blocks.size() stands for the head alone.
  void backward_weight(
      const Saved& saved, const std::function<void(std::size_t)>& done = [](std::size_t) {}) const {
    const auto pass = Pass::backward_weight;
    if (head) around(pass, blocks.size() + 1, [&] { head->backward_weight(saved.head); });
    done(blocks.size());
    for (std::size_t l = blocks.size(); l-- > 0; done(l))
      around(pass, l + 1, [&] { blocks[l].backward_weight(saved.blocks[l]); });
    if (embedding) around(pass, 0, [&] { embedding->backward(saved.dx, saved.batch.ids, positions); });
  }

 private:
  Placed<Residual> run(Placed<Residual> x, Saved& saved, const TensorParallel& tp) const {
    saved.blocks.resize(blocks.size());
    const auto pass = Pass::forward;
    if (embedding) around(pass, 0, [&] { x = embedding->forward(saved.batch.ids, positions, tp); });
    for (std::size_t l = 0; l < blocks.size(); ++l)
      around(pass, l + 1, [&] { x = blocks[l].forward(x, saved.blocks[l], tp); });
    if (!head) return x;
    saved.head.weights = saved.batch.weights;
    around(pass, blocks.size() + 1,
           [&] { saved.losses = head->forward(x, saved.batch.targets, saved.head, tp).local(); });
    return {};
  }
};
// end chunk
using Chunk = ChunkOf<>;

}  // namespace tessera::gpt
