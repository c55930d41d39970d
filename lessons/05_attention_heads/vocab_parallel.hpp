// The two largest matrices of a small model, the embedding and the head, cut by the vocabulary (Megatron's
// VocabParallelEmbedding and vocab_parallel_cross_entropy): rank r of tp has vocab_r of the vocabulary's ids,
// and no rank ever holds a whole row of logits. Where tp does not divide V, the numbers of rows of the shards
// differ by one.
#pragma once

#include "05_attention_heads/block.hpp"

namespace tessera::attention_heads {

/// The ids of a rank, as a range of [0, V).
inline Range own_ids(std::int64_t vocabulary, int rank, int ranks) {
  return {vocabulary * rank / ranks, vocabulary * (rank + 1) / ranks};
}

/// The ids, counted from the first id of this rank. Ids of other ranks fall outside of [0, vocab_r).
inline Tensor local_ids(const Tensor& ids, Range own) {
  const MemoryScope data(MemoryKind::check);
  std::vector<double> values = ids.values();
  for (double& id : values) id -= static_cast<double>(own.begin);
  return Tensor::of(ids.rows(), 1, values, DType::i32);
}

// begin embedding
/// Token and position embedding; the token table is cut by rows.
struct VocabParallelEmbedding {
  Placed<Shard<0>> wte;    // (vocab_r, W)  this rank's ids
  Placed<Replicated> wpe;  // (seq, W)
  Placed<Shard<0>> dwte = zero_gradient(wte);
  Placed<Replicated> dwpe = zero_gradient(wpe);

  // task 05.embedding (line, 1 point, 10 min): embed local ids, (n, 1) -> (n, W). Hint: an id of another rank
  // gives a row of zeros here; how do the ranks put their rows together?
  Placed<Replicated> forward(const Tensor& ids, const Tensor& positions, const TensorParallel& tp) const {
    const Placed<Partial> rows(embedding(ids, wte.local()));  // zeros except for this rank's ids
    return add(tp.all_reduce(rows), Placed<Replicated>(embedding(positions, wpe.local())));
  }
  // end task
  void backward(const Placed<Replicated>& dx, const Tensor& ids, const Tensor& positions) const {
    // No bytes are sent: dX is whole on every rank, and each rank takes the rows that belong to its ids.
    add_embedding_backward(dwte.local(), dx.local(), ids);
    add_embedding_backward(dwpe.local(), dx.local(), positions);
  }
};
// end embedding

// begin head
/// The logits z = ln_f(x) Wte', whose columns are cut as the rows of Wte are, and their cross-entropy, for
/// which they are never gathered: with m the largest logit, loss = log(sum_j exp(z_j - m)) - (z_target - m).
/// Three numbers for each token go through three all-reduces.
template <class Residual = Replicated>
struct VocabParallelHeadOf {
  NormOf<Residual> ln_f;
  Placed<Shard<0>> w, dw;  // (vocab_r, W)  wte, or lesson 06's copy of it

  struct Saved {
    typename NormOf<Residual>::Saved ln_f;
    Placed<Replicated> y;      // (n, W)  ln_f(X)
    CrossEntropy entropy;      // (n, 1), (n, vocab_r)
    Placed<Shard<1>> dlogits;  // (n, vocab_r)
    Tensor weights;            // (n, 1)  of each token's loss; undefined where each is 1
    Tensor weighted(const Tensor& x) const {
      return weights.defined() ? scale_rows(x, cast(weights, arithmetic(x.dtype()))) : x;
    }
  };

  Placed<Replicated> forward(const Placed<Replicated>& x, const Tensor& targets, Saved& saved,
                             const TensorParallel& tp) const {
    saved.y = ln_f.forward(x, saved.ln_f);
    return losses(targets, saved, tp);
  }

  // task 05.cross_entropy (function, 4 points, 40 min): saved.y (n, W), local targets (n, 1) -> (n, 1)
  // losses; what the backward needs goes to saved.entropy. The logits are saved.y w', and ops.hpp has
  // row_largest, cross_entropy_terms and cross_entropy_of for one rank's columns of them. Hint: the largest
  // logit of all ranks comes first, or exp overflows: tp.comm().all_reduce(x, Reduce::max). Which two terms
  // are sums over all ids?
  Placed<Replicated> losses(const Tensor& targets, Saved& saved, const TensorParallel& tp) const {
    const Placed<Shard<1>> logits = matmul(saved.y, t(w));  // (n, vocab_r)  no bytes sent
    const Tensor largest = tp.comm().all_reduce(row_largest(logits.local()), Reduce::max);  // (n, 1)
    CrossEntropyTerms terms = cross_entropy_terms(logits.local(), largest, targets);
    terms.sum = tp.comm().all_reduce(terms.sum);        // (n, 1)  sum of exp(z - m) over all ids
    terms.target = tp.comm().all_reduce(terms.target);  // (n, 1)  z_target - m; other ranks have 0
    saved.entropy = cross_entropy_of(terms);
    saved.entropy.loss = saved.weighted(saved.entropy.loss);
    return Placed<Replicated>(saved.entropy.loss);
  }
  // end task

  /// The gradient of the logits, softmax - onehot on the rank's own ids, sends nothing. That of y is Partial
  /// and needs an all-reduce, as before every layer that is cut by columns.
  Placed<Partial> backward_losses(const Tensor& targets, std::int64_t tokens, Saved& saved) const {
    saved.dlogits = Placed<Shard<1>>(saved.weighted(cross_entropy_backward(saved.entropy, targets, tokens)));
    saved.entropy = {};
    return matmul(saved.dlogits, w);
  }
  Placed<Replicated> backward_input(const Tensor& targets, std::int64_t tokens, Saved& saved,
                                    const TensorParallel& tp) const {
    return ln_f.backward_input(tp.all_reduce(backward_losses(targets, tokens, saved)), saved.ln_f);
  }
  void backward_weight(const Saved& saved) const {
    add_matmul(dw, t(saved.dlogits), saved.y);  // Shard<0> x Replicated = Shard<0>
    ln_f.backward_weight(saved.ln_f);
  }
};
using VocabParallelHead = VocabParallelHeadOf<>;
// end head

}  // namespace tessera::attention_heads
