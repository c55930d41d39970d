// The transformer block with the layer norms first, as in GPT-2: H = X + attention(ln_1(X)), Y = H +
// mlp(ln_2(H)). Each half has one all-reduce in each pass, so the block sums two (N, W) matrices over the
// ranks in the forward and two in the backward. Between the halves everything is Replicated: all ranks
// compute the norms and the residual additions in the same way, and get the same bits.
#pragma once

#include "04_mlp_block/mlp_block.hpp"
#include "05_attention_heads/multi_query.hpp"

namespace tessera::attention_heads {

/// Layer norm with its weights. The mean of a row needs the whole row: on Shard<1> this does not compile.
struct Norm {
  Placed<Replicated> weight, bias;  // (1, W)
  Placed<Replicated> dweight = zero_gradient(weight), dbias = zero_gradient(bias);
  double epsilon = 1e-5;

  struct Saved {
    LayerNorm norm;
    Placed<Replicated> dy;
  };

  Placed<Replicated> forward(const Placed<Replicated>& x, Saved& saved) const {
    return layer_norm(x, weight, bias, saved.norm, epsilon);
  }
  Placed<Replicated> backward_input(const Placed<Replicated>& dy, Saved& saved) const {
    saved.dy = dy;
    return layer_norm_backward(dy, saved.norm, weight);
  }
  /// dY is whole on every rank, and so are these gradients: they need no all-reduce. If dY were Shard<0>,
  /// they would be Partial.
  void backward_weight(const Saved& saved) const {
    add_layer_norm_weights(dweight, dbias, saved.dy, saved.norm);
  }
};

// begin block
/// The block around any kind of attention.
template <class Attention = ParallelAttention>
struct TransformerBlock {
  Norm ln_1;
  Attention attn;
  Norm ln_2;
  mlp_block::ParallelMlp mlp;

  struct Saved {
    typename Norm::Saved ln_1, ln_2;
    typename Attention::Saved attn;
    mlp_block::ParallelMlp::Saved mlp;
  };

  // task 05.block (design, 4 points, 45 min): forward and backward, (N, W) -> (N, W). With M the sum in the
  // middle, M = X + drop(attn(ln_1(X)), 1) and Y = M + drop(mlp(ln_2(M)), 2); each part keeps what it needs
  // in its own part of `saved`. Hint: the backward of drop(x, n) is drop(dy, n), which draws the same mask; a
  // value that was used twice gets the sum of two gradients.
  Placed<Replicated> forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel& tp) const {
    const auto a = attn.forward(ln_1.forward(x, saved.ln_1), saved.attn, tp);  // the first all-reduce
    const auto h = add(x, drop(a, 1));
    const auto m = mlp.forward(ln_2.forward(h, saved.ln_2), saved.mlp, tp);  // the second
    return add(h, drop(m, 2));
  }

  Placed<Replicated> backward_input(const Placed<Replicated>& dy, Saved& saved,
                                    const TensorParallel& tp) const {
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

  /// Dropout number `which` of the block. x is whole on every rank, and the mask is drawn by the place in the
  /// whole: every rank drops the same elements, and nothing is sent for that.
  Placed<Replicated> drop(const Placed<Replicated>& x, std::uint64_t which) const {
    return Placed<Replicated>(dropout_of(x.local(), attn.heads, which));
  }
};
// end block

}  // namespace tessera::attention_heads
