// Attention over the heads of one rank: softmax(q k^T / sqrt(d)) v. The q, k and v of a head are columns of
// their tensors, and these are usually columns of one fused product. Nothing is transposed or copied.
#pragma once

#include "ops/ops.hpp"

namespace tessera {

/// How many keys a tile of the streaming form has. Its scores and exponentials should stay in the cache
/// between two products.
inline constexpr std::int64_t attention_tile_keys = 192;

struct AttentionOptions {
  std::int64_t batch = 1, seq = 1;
  /// The heads of this rank; query head h uses kv head h / (heads / kv_heads).
  std::int64_t heads = 1, kv_heads = 1;
  Mask mask = Mask::causal;
  Tensor lengths;  // (batch, 1) i32, each at least 1, or 0 in the streaming form; only for Mask::padding
  double dropout = 0;
  std::uint64_t seed = 0;
  /// The place of these heads and sequences in the whole, for dropout. all_heads = 0 stands for `heads`.
  std::int64_t first_head = 0, all_heads = 0, first_batch = 0;
  /// The plain form keeps seq^2 probabilities for each head. The streaming form goes through tiles of keys,
  /// and keeps seq numbers for each head.
  enum class Form { automatic, plain, streaming };
  Form form = Form::automatic;  // streaming for seq of 256 and more, and on a GPU, where it is one kernel
  bool streams(DeviceKind on = Device::current()->kind()) const {
    return form == Form::automatic ? seq >= 256 || on == DeviceKind::cuda : form == Form::streaming;
  }
};

struct AttentionSaved {
  Tensor q, k, v, o;  // the arguments and the result
  Tensor p;           // plain: (batch heads seq, seq) probabilities, before dropout
  Tensor log_sum;     // streaming: (batch heads seq, 1)  log of the sum of exp(score) over the keys
};

/// q (batch seq, heads d), k and v (batch seq, kv_heads d) -> o (batch seq, heads d), each head's
/// o = dropout(softmax(q k^T / sqrt(d))) v. Vaswani et al. 2017, equation 1; grouped queries: Ainslie et al.
/// 2023. The streaming form: Milakov and Gimelshein 2018 for the softmax, Dao et al. 2022 for the rest.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                 AttentionSaved& saved);
/// Writes dq, dk and dv, which have the shapes of q, k and v and may be columns of one tensor. The options
/// must be those of the forward. Where q has seen further keys in other calls, o and log_sum are those of all
/// its keys; then dq is the part of these keys.
void attention_backward(const Tensor& dy, const AttentionSaved& saved, const AttentionOptions& options,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv);

/// A pair (o, log_sum) of the streaming form is the state of a softmax that has seen some keys; before the
/// first key o is 0 and log_sum is minus infinity. This merges the state of the same queries over other keys
/// into the first: log_sum = log(e^l1 + e^l2), o = o1 e^(l1 - log_sum) + o2 e^(l2 - log_sum). The shapes are
/// those of one call with these options. Liu et al. 2023, "Ring Attention".
void merge_attention(const Tensor& o, const Tensor& log_sum, const Tensor& more, const Tensor& more_log_sum,
                     const AttentionOptions& options);

}  // namespace tessera
