// The third way (Jacobs et al. 2023, "DeepSpeed Ulysses"): an all-to-all turns the cut by tokens into lesson
// 05's cut by heads, attention is that of one rank, and another all-to-all turns its output back. cp must
// divide the heads. It must divide the kv heads, too, or they must divide cp, and are copied. Each pass sends
// (cp-1)/cp of N (W + 2 kv d) and of N W elements, where kv is at least cp.
#pragma once

#include "11_context_parallel/context_parallel.hpp"
#include "gpt/model.hpp"

namespace tessera::context_parallel {

struct Ulysses {
  Communicator& cp;
  Layout layout;
  AttentionOptions whole;
  Computed computed;

  // begin ulysses
  Tensor forward(const Tensor& q, const Tensor& k, const Tensor& v, AttentionSaved& saved) const {
    const auto [q_own, k_own, v_own] =
        attention_heads::q_k_v(to_heads(Keys::beside(q, Keys::beside(k, v)), true), own());
    computed(own());
    return to_tokens(attention(q_own, k_own, v_own, own(), saved), q.cols(), false);
  }
  // end ulysses

  /// The mirror image: the gradient of an exchange is the exchange back.
  void backward(const Tensor& dy, const AttentionSaved& saved, const Tensor& dq, const Tensor& dk,
                const Tensor& dv) const {
    const std::int64_t width = saved.q.cols() + 2 * saved.k.cols();
    const Tensor gradients = Tensor::empty(saved.q.rows(), width, dy.dtype());
    const auto [dq_own, dk_own, dv_own] = attention_heads::q_k_v(gradients, own());
    attention_backward(to_heads(dy, false), saved, own(), dq_own, dk_own, dv_own);
    const auto home = attention_heads::q_k_v(to_tokens(gradients, dq.cols() + 2 * dk.cols(), true), whole);
    dq.copy_from(home[0]), dk.copy_from(home[1]), dv.copy_from(home[2]);
    computed(own());
  }

  /// (N/cp, cols) of this rank's tokens -> all N tokens of the columns of this rank's heads. With `keys` x is
  /// [Q | K | V]; else it has the columns of Q.
  Tensor to_heads(const Tensor& x, bool keys) const {
    const std::int64_t width = columns(x.rows(), x.cols(), 0, keys).local_cols();
    const Tensor sent = Tensor::empty(cp.size() * x.rows(), width, x.dtype());
    for (int rank = 0; rank < cp.size(); ++rank)
      block(sent, rank, cp.size()).copy_from(columns(x.rows(), x.cols(), rank, keys).extract(x));
    const Tensor got = cp.all_to_all(sent), all = empty_like(got);
    for (int rank = 0; rank < cp.size(); ++rank)
      layout.slice(width, rank).insert(all, block(got, rank, cp.size()));
    return all;
  }

  // task 11.to_tokens (function, 3 points, 30 min): the reverse, (N, width) of this rank's heads -> (N/cp,
  // cols) of all heads. Columns that several ranks had are summed. Hint: block i of what is sent has the
  // tokens of rank i; block i of what arrives has its columns.
  Tensor to_tokens(const Tensor& all, std::int64_t cols, bool keys) const {
    const Tensor sent = empty_like(all);
    for (int rank = 0; rank < cp.size(); ++rank)
      block(sent, rank, cp.size()).copy_from(layout.slice(all.cols(), rank).extract(all));
    const Tensor got = cp.all_to_all(sent), x = Tensor::zeros(all.rows() / cp.size(), cols, all.dtype());
    for (int rank = 0; rank < cp.size(); ++rank) {
      std::int64_t from = 0;
      for (const Range& to : columns(1, cols, rank, keys).col_ranges) {
        add_to(x.column_range(to.begin, to.end),
               block(got, rank, cp.size()).column_range(from, from + to.size()));
        from += to.size();
      }
    }
    return x;
  }
  // end task

  /// This rank's heads.
  AttentionOptions own() const {
    AttentionOptions own = whole;
    own.heads /= cp.size(), own.kv_heads = std::max<std::int64_t>(own.kv_heads / cp.size(), 1);
    own.form = AttentionOptions::Form::streaming;
    return own;
  }
  /// The columns of a rank's heads, and of the kv heads that they use.
  Slice columns(std::int64_t rows, std::int64_t cols, int rank, bool keys) const {
    const std::int64_t d = cols / (whole.heads + (keys ? 2 * whole.kv_heads : 0)), c = cp.size();
    Slice slice{rows, cols, {{0, rows}}, {}};
    const auto add = [&](std::int64_t first, std::int64_t heads) {
      slice.col_ranges.push_back({first * d, (first + heads) * d});
    };
    add(rank * own().heads, own().heads);
    for (const std::int64_t first : {whole.heads, whole.heads + whole.kv_heads})
      if (keys) add(first + rank * whole.kv_heads / c, own().kv_heads);
    return slice;
  }
};

using gpt::Way;

/// One of the three ways as the core of lesson 05's attention, which knows nothing of the cut.
inline attention_heads::Core make_core(
    Way way, Communicator& cp, const Layout& layout, const AttentionOptions& whole,
    const Computed& computed = [](const AttentionOptions&) {}) {
  const auto core = [](const auto& made) -> attention_heads::Core {
    return {[made](const auto& q, const auto& k, const auto& v, const auto&, auto& saved) {
              return made.forward(q, k, v, saved);
            },
            [made](const auto& dy, const auto& saved, const auto&, const auto&... dqkv) {
              made.backward(dy, saved, dqkv...);
            }};
  };
  if (way == Way::ulysses) return core(Ulysses{cp, layout, whole, computed});
  if (way == Way::gather) return core(PairwiseAttention<Gather>{{cp}, layout, whole, computed});
  return core(PairwiseAttention<Ring>{{cp}, layout, whole, computed});
}

}  // namespace tessera::context_parallel
