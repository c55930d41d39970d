// Attention over the heads of one rank: softmax(q k^T / sqrt(d)) v. A head's q, k and v are columns of their
// tensors, which are usually columns of one fused product themselves: nothing is transposed or copied.
#pragma once

#include "ops/ops.hpp"

namespace tessera {

/// Keys of one tile of the streaming form: its scores
/// and exponentials pass through the cache between two products.
inline constexpr std::int64_t attention_tile_keys = 192;

struct AttentionOptions {
  std::int64_t batch = 1, seq = 1;
  std::int64_t heads = 1,
               kv_heads = 1;  // that this rank has; query head h uses kv head h / (heads / kv_heads)
  Mask mask = Mask::causal;
  Tensor lengths;  // (batch, 1) i32, for Mask::padding alone: at least 1 each
  double dropout = 0;
  std::uint64_t seed = 0;
  /// Where these heads and sequences stand in the whole, for dropout. all_heads 0: as many as `heads`.
  std::int64_t first_head = 0, all_heads = 0, first_batch = 0;
  /// plain keeps all probabilities, seq^2 a head. streaming walks over tiles of keys and keeps seq numbers.
  enum class Form { automatic, plain, streaming };
  Form form = Form::automatic;  // streaming from seq 256 up
  bool streams() const { return form == Form::streaming || (form == Form::automatic && seq >= 256); }
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
/// Writes dq, dk and dv, of the shapes of q, k and v, which may be columns of one tensor. The options are
/// those of the forward.
void attention_backward(const Tensor& dy, const AttentionSaved& saved, const AttentionOptions& options,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv);

}  // namespace tessera
