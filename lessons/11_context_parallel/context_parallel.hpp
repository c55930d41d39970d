// Attention over tokens that are cut on cp ranks. Everything else in a transformer works token by token, and
// its weights have a term of their gradient on each rank, as in lesson 07. In attention a query needs the
// keys and values of other ranks' tokens. But a softmax can be taken piece by piece: the pair (o, lse) of a
// query says what it has seen, and the pairs of two sets of keys merge into that of both.
//
//   lse = log(e^lse1 + e^lse2)      o = o1 e^(lse1 - lse) + o2 e^(lse2 - lse)       merge_attention
//
// The backward knows the final lse and delta = rowsum(dO o). So each pair of a chunk of queries and a chunk
// of keys gives its parts of dQ, dK and dV by itself: p = exp(q k' / sqrt(d) - lse), ds = p (dO v' - delta).
#pragma once

#include <algorithm>
#include <cmath>

#include "05_attention_heads/multi_query.hpp"
#include "11_context_parallel/exchange.hpp"
#include "tensor/error.hpp"

namespace tessera::context_parallel {

using Keys = attention_heads::MultiQueryAttention;  // makes [K | V], and takes it apart

/// Called for each attention that a rank computes, so that the harness can count its work.
using Computed = std::function<void(const AttentionOptions&)>;

/// Attention of this rank's queries with all keys. Exchange is Ring or Gather.
template <class Exchange>
struct PairwiseAttention {
  Exchange exchange;
  Layout layout;
  AttentionOptions whole;  // of the whole sequences
  Computed computed;

  // begin pairs
  /// q (N/cp, W), k and v (N/cp, kv d) -> o (N/cp, W).
  Tensor forward(const Tensor& q, const Tensor& k, const Tensor& v, AttentionSaved& saved) const {
    const std::vector<double> nothing(static_cast<std::size_t>(q.rows() * whole.heads), -INFINITY);
    saved = {q,  k,
             v,  Tensor::zeros(q.rows(), q.cols(), q.dtype()),
             {}, Tensor::of(q.rows() * whole.heads, 1, nothing, arithmetic(q.dtype()))};
    exchange.bring(Keys::beside(k, v), [&](int rank, const Tensor& kv) {
      for_pairs(rank, kv, saved, [&](const AttentionSaved& own, const AttentionOptions& options, int, int) {
        AttentionSaved more;
        attention(own.q, own.k, own.v, options, more);
        merge_attention(own.o, own.log_sum, more.o, more.log_sum, options);
      });
    });
    return saved.o;
  }

  /// Writes dQ, dK and dV of this rank's tokens.
  void backward(const Tensor& dy, const AttentionSaved& saved, const Tensor& dq, const Tensor& dk,
                const Tensor& dv) const {
    dq.zero();
    const auto visit = [&](int rank, const Tensor& kv) {
      const Tensor terms = Tensor::zeros(kv.rows(), kv.cols(), kv.dtype());
      for_pairs(rank, kv, saved,
                [&](const AttentionSaved& own, const AttentionOptions& options, int i, int j) {
                  const Tensor dq_part = empty_like(own.q), dkv_part = empty_like(rows(kv, j));
                  const auto [dk_part, dv_part] = Keys::halves(dkv_part);
                  attention_backward(rows(dy, i), own, options, dq_part, dk_part, dv_part);
                  add_to(rows(dq, i), dq_part);      // stays: the queries are this rank's
                  add_to(rows(terms, j), dkv_part);  // goes home to the keys' rank
                });
      return terms;
    };
    const auto [dk_sum, dv_sum] = Keys::halves(exchange.bring_and_sum(Keys::beside(saved.k, saved.v), visit));
    dk.copy_from(dk_sum), dv.copy_from(dv_sum);
  }
  // end pairs

 private:
  Tensor rows(const Tensor& x, int chunk) const { return block(x, chunk, layout.own_chunks()); }

  /// Calls body for this rank's chunk i of queries and chunk j of another rank's keys, unless all of these
  /// keys come after all of these queries.
  template <class Body>
  void for_pairs(int rank, const Tensor& kv, const AttentionSaved& s, const Body& body) const {
    const auto [k, v] = Keys::halves(kv);
    for (int i = 0; i < layout.own_chunks(); ++i)
      for (int j = 0; j < layout.own_chunks(); ++j) {
        const int queries = layout.chunk(exchange.cp.rank(), i), keys = layout.chunk(rank, j);
        if (whole.mask == Mask::causal && keys > queries) continue;
        const Moment began = exchange.cp.journal().moment();
        const AttentionOptions options = pair(queries, keys);
        body({rows(s.q, i), rows(k, j), rows(v, j), rows(s.o, i), {}, rows(s.log_sum, i)}, options, i, j);
        computed(options);
        exchange.cp.journal().span(format("queries {}, keys {}", queries, keys), "layer", began);
      }
  }

  /// The options of a pair. A causal mask leaves a triangle of equal chunks, and all keys for later queries.
  AttentionOptions pair(int queries, int keys) const {
    AttentionOptions options = whole;
    options.form = AttentionOptions::Form::streaming, options.seq = layout.length();
    if (options.mask == Mask::causal && keys < queries) options.mask = Mask::none;
    if (options.mask != Mask::padding) return options;
    // What is left of each sequence from the first key of this chunk on.
    const auto length = static_cast<double>(options.seq);
    std::vector<double> left = whole.lengths.values();
    for (double& one : left) one = std::clamp(one - keys * length, 0.0, length);
    const MemoryScope data(MemoryKind::check);
    options.lengths = Tensor::of(whole.batch, 1, left, DType::i32);
    return options;
  }
};

}  // namespace tessera::context_parallel
