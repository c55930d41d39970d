// Self-attention cut by heads (Shoeybi et al. 2019, section 3, figure 3b). A head is to attention what a
// column was to the MLP: it needs its own columns of Q, K and V, and those of no other head. So the cut of
// lesson 04 works here as well, with heads in the place of columns:
//
//   Y = sum over ranks of  heads_i(X Wqkv_i + b_i) Wproj_i  + c       one all-reduce forward, one backward
//   head(q, k, v) = softmax(q k' / sqrt(d)) v                         ops/attention.hpp
//
// There are N = batch seq tokens, the width is W, and each of the heads has d = W / heads columns. There are
// kv heads of K and V; each of them serves heads / kv query heads.
#pragma once

#include <array>
#include <functional>
#include <utility>

#include "04_mlp_block/mlp_block.hpp"
#include "ops/attention.hpp"

namespace tessera::attention_heads {

/// The sizes of the whole attention, independent of the ranks.
struct AttentionShape {
  std::int64_t width = 96, heads = 12, kv_heads = 12;
  AttentionOptions options;  // batch, seq, mask, dropout; own_heads fills in the heads

  std::int64_t head_width() const { return width / heads; }
  std::int64_t kv_width() const { return kv_heads * head_width(); }
  std::int64_t tokens() const { return options.batch * options.seq; }
};

// begin slices
/// The columns of a rank in c_attn = [Q | K | V], GPT-2's fused matrix of (rows, W + 2 kv d): the columns of
/// its heads in Q, in K and in V. A contiguous p-th of the fused matrix would hold some columns of Q, or of
/// K, or of V.
// task 05.qkv_slice (function, 3 points, 25 min): compute three column ranges. Hint: each of Q, K and V is
// cut as in lesson 02, and its range is then moved to where it begins in the fused matrix.
inline Slice qkv_slice(std::int64_t rows, const AttentionShape& s, int rank, int ranks) {
  Slice slice = Slice::whole(rows, s.width + 2 * s.kv_width());
  const Range q = part(s.width, rank, ranks), kv = part(s.kv_width(), rank, ranks);
  const std::int64_t k_begin = s.width, v_begin = s.width + s.kv_width();
  slice.col_ranges = {q, {k_begin + kv.begin, k_begin + kv.end}, {v_begin + kv.begin, v_begin + kv.end}};
  return slice;
}
// end task
// end slices

/// The heads of a rank, and their place among all heads. Dropout needs the place: it draws each element's
/// mask by the element's place in the whole, so that every cut drops the same elements.
inline AttentionOptions own_heads(const AttentionShape& s, int rank, int ranks) {
  AttentionOptions own = s.options;
  own.heads = s.heads / ranks;
  own.kv_heads = s.kv_heads % ranks == 0 ? s.kv_heads / ranks : s.kv_heads;
  own.first_head = rank * own.heads;
  own.all_heads = s.heads;
  const MemoryScope data(MemoryKind::check);  // the lengths of the batch are not part of the model
  if (own.lengths.defined()) own.lengths = own.lengths.to(Device::current());
  return own;
}

/// Q, K and V as views of their columns in [Q | K | V]; `own` says how many heads each of them has.
inline std::array<Tensor, 3> q_k_v(const Tensor& qkv, const AttentionOptions& own) {
  const std::int64_t d = qkv.cols() / (own.heads + 2 * own.kv_heads);
  const std::int64_t q = own.heads * d, kv = own.kv_heads * d;
  return {qkv.column_range(0, q), qkv.column_range(q, q + kv), qkv.column_range(q + kv, q + 2 * kv)};
}

/// Dropout of the output of a block's half, drawn by the place of the token in the whole batch. `which` is 1
/// or 2, so that the two halves of a block draw different masks. `first_row` is the place of x's first row
/// among the tokens of this rank's sequences.
inline Tensor dropout_of(const Tensor& x, const AttentionOptions& o, std::uint64_t which,
                         std::int64_t first_row = 0) {
  first_row += o.first_batch * o.seq;
  return o.dropout > 0 ? dropout(x, o.dropout, o.seed + which, {.first_row = first_row}) : x;
}

/// The function inside a head. It is a parameter, as f was in lesson 04: attention, or in the exact tier a
/// linear function, which is exact on integers, or in lesson 11 attention over tokens that are cut.
struct Core {
  std::function<Tensor(const Tensor&, const Tensor&, const Tensor&, const AttentionOptions&, AttentionSaved&)>
      forward = attention;
  std::function<void(const Tensor&, const AttentionSaved&, const AttentionOptions&, const Tensor&,
                     const Tensor&, const Tensor&)>
      backward = attention_backward;
};

inline constexpr int code_line = __LINE__ + 3;
// begin heads
/// Attention whose kv heads are cut over the ranks too.
template <class Layers = mlp_block::AllReduced>
struct ParallelAttentionOf {
  typename Layers::Column c_attn;  // (W, (W + 2 kv d)/p), its qkv_slice
  typename Layers::Row c_proj;     // (W/p, W)
  AttentionOptions heads;          // this rank's heads
  Core core;
  using Out = Placed<typename Layers::Out>;

  ParallelAttentionOf(const Tensor& qkv, const Tensor& c_qkv, const Tensor& proj, const Tensor& c,
                      AttentionOptions own, Core core_ = {})
      : c_attn(qkv, c_qkv), c_proj(proj, c), heads(std::move(own)), core(std::move(core_)) {}

  struct Saved {
    typename Layers::Column::Saved c_attn;
    AttentionSaved heads;
    typename Layers::Row::Saved c_proj;  // c_proj.x is O, (N, W/p)
    Placed<Replicated>& x() { return c_attn.x; }
  };
  const typename Layers::Row& last() const { return c_proj; }

  // task 05.forward (function, 2 points, 20 min): compute Y, (N, W) -> (N, W).
  // Hint: it is lesson 04 with the core in the place of f.
  Out forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel& tp) const {
    const Placed<Shard<1>> qkv = c_attn.forward(x, saved.c_attn);  // (N, (W + 2 kv d)/p)  no bytes sent
    const auto [q, k, v] = q_k_v(qkv.local(), heads);
    const Placed<Shard<1>> o(core.forward(q, k, v, heads, saved.heads));  // (N, W/p)  each head by itself
    return c_proj.forward(o, saved.c_proj, tp);                           // (N, W)    the only all-reduce
  }
  // end task

  // task 05.backward (function, 3 points, 25 min): compute dX, (N, W) -> (N, W). Hint: it is the mirror image
  // of forward; dQ, dK and dV lie side by side in one tensor.
  Out backward_input(const Placed<Replicated>& dy, Saved& saved, const TensorParallel& tp) const {
    const Placed<Shard<1>> d_o = c_proj.backward_input(dy, saved.c_proj);  // (N, W/p)  no bytes sent
    const Placed<Shard<1>> dqkv(
        Tensor::empty(d_o.local().rows(), c_attn.a.local().cols(), d_o.local().dtype()));
    const auto [dq, dk, dv] = q_k_v(dqkv.local(), heads);
    core.backward(d_o.local(), saved.heads, heads, dq, dk, dv);  // (N, (W + 2 kv d)/p)
    return c_attn.backward_input(dqkv, saved.c_attn, tp);        // (N, W)    the only all-reduce
  }
  // end task

  void backward_weight(const Saved& saved) const {
    c_attn.backward_weight(saved.c_attn);
    c_proj.backward_weight(saved.c_proj);
  }

  /// The gradients of c_attn's weight and bias, for the proof: the columns of qkv_slice.
  Tensor dqkv() const { return c_attn.da.local(); }
  Tensor dc_qkv() const { return c_attn.dc.local(); }
};
using ParallelAttention = ParallelAttentionOf<>;
// end heads

}  // namespace tessera::attention_heads
