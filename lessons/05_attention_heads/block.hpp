// The transformer block with the layer norms first, as in GPT-2: Xa = X + attention(ln_1(X)), Y = Xa +
// mlp(ln_2(Xa)). Each half has one all-reduce in each pass, so the block sums two (N, W) matrices over the
// ranks in the forward and two in the backward. Between the halves everything is Replicated: all ranks
// compute the norms and the residual additions in the same way, and get the same bits.
#pragma once

#include "05_attention_heads/multi_query.hpp"

namespace tessera::attention_heads {

/// Layer norm with its weights. The mean of a row needs the whole row: on Shard<1> this does not compile.
/// `Residual` is the placement of what flows from norm to norm: Replicated here, Shard<0> in lesson 09.
template <class Residual = Replicated>
struct NormOf {
  Placed<Replicated> weight, bias;                                       // (1, W)
  Placed<summed_rows<Residual>> dweight{zero_gradient(weight).local()};  // Partial if Residual is Shard<0>
  Placed<summed_rows<Residual>> dbias{zero_gradient(bias).local()};
  double epsilon = 1e-5;

  struct Saved {
    LayerNorm norm;
    Placed<Residual> dy;
  };

  Placed<Residual> forward(const Placed<Residual>& x, Saved& saved) const {
    const auto y = layer_norm(x, weight, bias, saved.norm, epsilon);
    saved.norm.y = {};  // the backward does not need it, and the layer behind the norm may keep it
    return y;
  }
  Placed<Residual> backward_input(const Placed<Residual>& dy, Saved& saved) const {
    saved.dy = dy;
    return layer_norm_backward(dy, saved.norm, weight);
  }
  /// dY is whole on every rank, and so are these gradients: they need no all-reduce. If dY were Shard<0>,
  /// they would be Partial.
  void backward_weight(const Saved& saved) const {
    add_layer_norm_weights(dweight, dbias, saved.dy, saved.norm);
  }
};
using Norm = NormOf<>;

// begin block
/// The block around any kind of attention.
template <class Attention = ParallelAttention, class Mlp = mlp_block::ParallelMlp,
          class Residual = Replicated>
struct TransformerBlock {
  NormOf<Residual> ln_1;
  Attention attn;
  NormOf<Residual> ln_2;
  Mlp mlp;
  std::int64_t first_row = 0;  // the place of this rank's first token among the N

  using X = Placed<Residual>;
  struct Saved {
    typename NormOf<Residual>::Saved ln_1, ln_2;
    typename Attention::Saved attn;
    typename Mlp::Saved mlp;
  };

  // task 05.block (design, 4 points, 45 min): forward and backward, (N, W) -> (N, W). With M the sum in the
  // middle, M = X + drop(attn(ln_1(X)), 1) and Y = M + drop(mlp(ln_2(M)), 2); each part keeps what it needs
  // in its own part of `saved`. Hint: the backward of drop(x, n) is drop(dy, n), which draws the same mask; a
  // value that was used twice gets the sum of two gradients.
  X forward(const X& x, Saved& saved, const TensorParallel& tp) const {
    const auto a = attn.forward(ln_1.forward(x, saved.ln_1), saved.attn, tp);  // the first all-reduce
    const auto h = add(x, drop(a, 1));
    const auto m = mlp.forward(ln_2.forward(h, saved.ln_2), saved.mlp, tp);  // the second
    return add(h, drop(m, 2));
  }

  X backward_input(const X& dy, Saved& saved, const TensorParallel& tp) const {
    const auto dm = mlp.backward_input(drop(dy, 2), saved.mlp, tp);  // the first all-reduce
    const auto dh = add(dy, ln_2.backward_input(dm, saved.ln_2));    // two ways led to Y: their gradients add
    const auto da = attn.backward_input(drop(dh, 1), saved.attn, tp);  // the second
    return add(dh, ln_1.backward_input(da, saved.ln_1));
  }
  // end task

  void backward_weight(const Saved& saved) const {
    ln_1.backward_weight(saved.ln_1);
    attn.backward_weight(saved.attn);
    ln_2.backward_weight(saved.ln_2);
    mlp.backward_weight(saved.mlp);
  }

  /// Dropout number `which` of the block. The mask is drawn by the place in the whole: every rank that has an
  /// element drops it or keeps it alike, and nothing is sent for that.
  X drop(const X& x, std::uint64_t which) const {
    return X(dropout_of(x.local(), attn.heads, which, first_row));
  }
};
// end block

}  // namespace tessera::attention_heads
