// Multi-query attention: all heads use the same key and value (Shazeer 2019), and a single head cannot be cut
// over ranks. So every rank computes K and V whole: they are Replicated. The heads of every rank have used
// them, so that dK and dV are Partial, and the backward needs one more all-reduce, of a thin (N, 2 d) matrix.
#pragma once

#include "05_attention_heads/attention_heads.hpp"

namespace tessera::attention_heads {

/// Attention whose query heads are cut over the ranks, and whose one kv head every rank has.
struct MultiQueryAttention {
  column_split::ColumnParallelLinear q;  // (W, W/p), this rank's columns of Q in c_attn
  Placed<Replicated> kv, c_kv;           // (W, 2 d), (1, 2 d)  K and V in c_attn
  row_split::RowParallelLinear c_proj;   // (W/p, W)
  AttentionOptions heads;                // this rank's heads, one key and one value
  Core core;
  Placed<Replicated> dkv = zero_gradient(kv), dc_kv = zero_gradient(c_kv);

  /// qkv = [Q_i | K | V] (W, W/p + 2 d): this rank's heads of Q, and the whole K and V.
  MultiQueryAttention(const Tensor& qkv, const Tensor& c_qkv, const Tensor& proj, const Tensor& c,
                      AttentionOptions own, Core core_ = {})
      : q(qkv.column_range(0, proj.rows()), c_qkv.column_range(0, proj.rows())),
        kv(qkv.column_range(proj.rows(), qkv.cols())),
        c_kv(c_qkv.column_range(proj.rows(), qkv.cols())),
        c_proj(proj, c),
        heads(std::move(own)),
        core(std::move(core_)) {}

  struct Saved {
    column_split::ColumnParallelLinear::Saved q;
    Placed<Replicated> dkeys;  // (N, 2 d)  [dK | dV]
    AttentionSaved heads;
    row_split::RowParallelLinear::Saved c_proj;
  };

  // begin multi_query
  // task 05.multi_query (design, 5 points, 60 min): write forward and backward, (N, W) -> (N, W), which send
  // as few bytes as they can: the counters decide. Hint: which ranks used K and V? And dX is a sum of terms;
  // which of them are whole on every rank already?
  Placed<Replicated> forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel& tp) const {
    const Placed<Shard<1>> queries = q.forward(x, saved.q);         // (N, W/p)  no bytes sent
    const Placed<Replicated> keys = add_bias(matmul(x, kv), c_kv);  // (N, 2 d)  the same on every rank
    const auto [k, v] = halves(keys.local());
    const Placed<Shard<1>> o(core.forward(queries.local(), k, v, heads, saved.heads));
    return c_proj.forward(o, saved.c_proj, tp);  // (N, W)    the only all-reduce
  }

  Placed<Replicated> backward_input(const Placed<Replicated>& dy, Saved& saved,
                                    const TensorParallel& tp) const {
    const Placed<Shard<1>> d_o = c_proj.backward_input(dy, saved.c_proj);
    const Placed<Shard<1>> dq(empty_like(d_o.local()));
    const Placed<Partial> terms(Tensor::empty(d_o.local().rows(), kv.local().cols(), d_o.local().dtype()));
    const auto [dk, dv] = halves(terms.local());
    core.backward(d_o.local(), saved.heads, heads, dq.local(), dk, dv);
    saved.dkeys = tp.all_reduce(terms);  // (N, 2 d)  every rank's heads used them
    return add(q.backward_input(dq, saved.q, tp),
               matmul(saved.dkeys, t(kv)));  // (N, W)  the second all-reduce
  }
  // end task

  void backward_weight(const Saved& saved) const {
    q.backward_weight(saved.q);
    add_matmul(dkv, t(saved.q.x), saved.dkeys);  // Replicated x Replicated: whole on every rank
    add_sum_rows(dc_kv, saved.dkeys);
    c_proj.backward_weight(saved.c_proj);
  }
  // end multi_query

  Tensor dqkv() const { return beside(q.da.local(), dkv.local()); }
  Tensor dc_qkv() const { return beside(q.dc.local(), dc_kv.local()); }

  /// [left, right], copied into one tensor.
  static Tensor beside(const Tensor& left, const Tensor& right) {
    const Tensor both = Tensor::empty(left.rows(), left.cols() + right.cols(), left.dtype(), left.device());
    both.column_range(0, left.cols()).copy_from(left);
    both.column_range(left.cols(), both.cols()).copy_from(right);
    return both;
  }
  /// K and V as views of [K | V].
  static std::pair<Tensor, Tensor> halves(const Tensor& keys) {
    const std::int64_t d = keys.cols() / 2;
    return {keys.column_range(0, d), keys.column_range(d, 2 * d)};
  }
};

}  // namespace tessera::attention_heads
