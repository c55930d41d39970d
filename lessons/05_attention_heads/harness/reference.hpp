// The unsplit formulas, line by line on plain tensors, with GPT-2's names: the baseline of this lesson and of
// those that stack its blocks. Each product notes its largest sum of absolute terms, which scales the bounds.
#pragma once

#include "01_mlp/mlp.hpp"
#include "05_attention_heads/attention_heads.hpp"
#include "app/proof.hpp"

namespace tessera::attention_heads {

/// A linear stand-in for the softmax, exact on integers: o = q + k + v of each query head.
inline constexpr Core linear_core{
    [](const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o, AttentionSaved& saved) {
      saved = {q, k, v, q.copy(), {}, {}};
      const std::int64_t d = q.cols() / o.heads, group = o.heads / o.kv_heads;
      for (std::int64_t h = 0; h < o.heads; ++h)
        for (const Tensor& x : {k, v})
          add_to(saved.o.column_range(h * d, (h + 1) * d),
                 x.column_range(h / group * d, (h / group + 1) * d));
      return saved.o;
    },
    [](const Tensor& dy, const AttentionSaved&, const AttentionOptions& o, const Tensor& dq, const Tensor& dk,
       const Tensor& dv) {
      dq.copy_from(dy);
      dk.zero();
      const std::int64_t d = dy.cols() / o.heads, group = o.heads / o.kv_heads;
      for (std::int64_t h = 0; h < o.heads; ++h)
        add_to(dk.column_range(h / group * d, (h / group + 1) * d), dy.column_range(h * d, (h + 1) * d));
      dv.copy_from(dk);
    }};

class Reference {
 public:
  Reference(const Inputs<Tensor>& in, AttentionShape shape, Core core)
      : in_(in), shape_(std::move(shape)), core_(core) {}
  MeasuredReference whole;  // filled as the backward goes along: "d" + name

  Tensor linear(const std::string& name, const Tensor& x) {
    inputs_[name] = x;
    const Tensor w = in_(name + ".weight");
    whole.largest_sum[name] = largest_terms(x, w) + largest(in_(name + ".bias"));
    return add_bias(matmul(x, w), in_(name + ".bias"));
  }
  Tensor linear_backward(const std::string& name, const Tensor& dy) {
    const Tensor& x = inputs_.at(name);
    const Tensor w = in_(name + ".weight");
    note("d" + name + ".weight", matmul(t(x), dy), largest_terms(t(x), dy));
    note("d" + name + ".bias", sum_rows(dy), largest(sum_rows(absolute(dy))));
    whole.largest_sum[name + " dX"] = largest_terms(dy, t(w));
    return matmul(dy, t(w));
  }

  Tensor norm(const std::string& name, const Tensor& x) {
    norms_[name] = layer_norm(x, in_(name + ".weight"), in_(name + ".bias"));
    return norms_[name].y;
  }
  Tensor norm_backward(const std::string& name, const Tensor& dy) {
    const LayerNorm& saved = norms_.at(name);
    const Tensor w = in_(name + ".weight"), dw = zero_gradient(w), db = zero_gradient(w);
    add_layer_norm_weights(dw, db, dy, saved);
    const double sum = largest(sum_rows(absolute(dy)));
    // |x - mean| inverse_deviation of a row of W elements is at most sqrt(W).
    note("d" + name + ".weight", dw, sum * std::sqrt(static_cast<double>(w.cols())));
    note("d" + name + ".bias", db, sum);
    return layer_norm_backward(dy, saved, w);
  }

  Tensor attention(const std::string& name, const Tensor& x) {
    const Tensor qkv = linear(name + ".c_attn", x);
    const auto [q, k, v] = parts(qkv);
    return linear(name + ".c_proj", core_.forward(q, k, v, options(), heads_[name]));
  }
  Tensor attention_backward(const std::string& name, const Tensor& dy) {
    const Tensor d_o = linear_backward(name + ".c_proj", dy);
    const Tensor dqkv = Tensor::empty(dy.rows(), shape_.width + 2 * shape_.kv_width(), dy.dtype());
    const auto [dq, dk, dv] = parts(dqkv);
    core_.backward(d_o, heads_.at(name), options(), dq, dk, dv);
    return linear_backward(name + ".c_attn", dqkv);
  }
  const Tensor& heads(const std::string& name) const { return heads_.at(name).o; }

  /// `h` is the prefix of the layer's names: "" or "h.0.".
  Tensor block(const std::string& h, const Tensor& x) {
    const Tensor mid = add(x, dropout_of(attention(h + "attn", norm(h + "ln_1", x)), options(), 1));
    pre_[h] = linear(h + "mlp.c_fc", norm(h + "ln_2", mid));
    return add(mid, dropout_of(linear(h + "mlp.c_proj", gelu(pre_[h])), options(), 2));
  }
  Tensor block_backward(const std::string& h, const Tensor& dy) {
    const Tensor dm = linear_backward(h + "mlp.c_proj", dropout_of(dy, options(), 2));
    const Tensor dn = linear_backward(h + "mlp.c_fc", gelu_backward(dm, pre_.at(h)));
    const Tensor dmid = add(dy, norm_backward(h + "ln_2", dn));
    const Tensor da = attention_backward(h + "attn", dropout_of(dmid, options(), 1));
    return add(dmid, norm_backward(h + "ln_1", da));
  }

  void note(const std::string& name, const Tensor& result, double largest_sum) {
    whole.results[name] = result;
    whole.largest_sum[name] = largest_sum;
  }
  double sum_of(const std::string& name) const { return whole.largest_sum.at(name); }

 private:
  /// GPT-2's layout once more: q_k_v, which the cut model uses, would prove itself.
  std::array<Tensor, 3> parts(const Tensor& qkv) const {
    const std::int64_t v = shape_.width + shape_.kv_width();
    return {qkv.column_range(0, shape_.width), qkv.column_range(shape_.width, v),
            qkv.column_range(v, qkv.cols())};
  }
  AttentionOptions options() const { return own_heads(shape_, 0, 1); }

  const Inputs<Tensor>& in_;
  AttentionShape shape_;
  Core core_;
  std::map<std::string, Tensor> inputs_, pre_;
  std::map<std::string, AttentionSaved> heads_;
  std::map<std::string, LayerNorm> norms_;
};

}  // namespace tessera::attention_heads
