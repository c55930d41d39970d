// The baseline of this lesson and of those that stack its blocks: attention as it is defined, sequence by
// sequence and head by head, with nothing but products and a softmax; and the unsplit formulas around it,
// line by line on plain tensors, with GPT-2's names.
#pragma once

#include <cmath>

#include "01_mlp/mlp.hpp"
#include "05_attention_heads/attention_heads.hpp"
#include "app/proof.hpp"

namespace tessera::attention_heads {

/// Two known mistakes, which the checks recognise.
struct Wrong {
  int later = 0;      // each query also sees so many of the keys that come after it
  bool by_d = false;  // the scores are divided by d, not by its root
};

/// One head of one sequence of S tokens: P = softmax(Q K' / sqrt(d) + mask), some of it dropped; O = P V.
class AttentionHead {
 public:
  AttentionHead(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                std::int64_t batch, std::int64_t head, Wrong wrong)
      : q_(q), k_(k), v_(v), factor_(std::pow(q.cols(), wrong.by_d ? -1 : -0.5)) {
    const Tensor scores = scale(matmul(q, t(k)), factor_);   // (S, S)  how well token i matches token j
    p_ = softmax(add(scores, mask(o, batch, wrong.later)));  // (S, S)  each row sums to 1
    const std::int64_t first_row = ((o.first_batch + batch) * o.all_heads + o.first_head + head) * o.seq;
    const std::vector<double> ones(o.seq * o.seq, 1);
    kept_ = dropout(Tensor::of(o.seq, o.seq, ones, q.dtype()), o.dropout, o.seed, {.first_row = first_row});
  }

  /// O, (S, d): each row is a mean of the values, weighted by P.
  Tensor forward() const { return matmul(times(p_, kept_), v_); }

  /// dP = dO V', dS = P (dP - sum_k dP_k P_k), dQ = dS K, dK = dS' Q, dV = P' dO.
  void backward(const Tensor& d_o, const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
    const Tensor dp = times(matmul(d_o, t(v_)), kept_);
    const Tensor ds = scale(softmax_backward(dp, p_), factor_);  // (S, S)
    dq.copy_from(matmul(ds, k_));
    add_matmul(dk, t(ds), q_);  // added: several query heads may share this key
    add_matmul(dv, t(times(p_, kept_)), d_o);
  }

  /// The largest sum of absolute terms in dQ, dK and dV.
  double largest_sum(const Tensor& d_o) const {
    const Tensor ds = scale(softmax_backward(times(matmul(d_o, t(v_)), kept_), p_), factor_);
    return std::max(
        {largest_terms(ds, k_), largest_terms(t(ds), q_), largest_terms(t(times(p_, kept_)), d_o)});
  }

 private:
  /// (S, S): 0 where query i may look at key j, minus infinity elsewhere.
  Tensor mask(const AttentionOptions& o, std::int64_t batch, int later) const {
    const auto length = o.mask == Mask::padding ? o.lengths.row_range(batch, batch + 1).values()[0] : o.seq;
    std::vector<double> values;
    for (std::int64_t i = 0; i < o.seq; ++i)
      for (std::int64_t j = 0; j < o.seq; ++j)
        values.push_back((o.mask == Mask::causal && j > i + later) || !(j < length) ? -INFINITY : 0);
    return Tensor::of(o.seq, o.seq, values, q_.dtype());
  }
  /// The product element by element, computed on the host: the baseline need not be fast.
  static Tensor times(const Tensor& a, const Tensor& b) {
    std::vector<double> x = a.values();
    const std::vector<double> y = b.values();
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= y[i];
    return Tensor::of(a.rows(), a.cols(), x, a.dtype());
  }

  Tensor q_, k_, v_, p_, kept_;
  double factor_;
};

/// Calls visit(b, h, of_head, of_key) for each head h of each sequence b. of_head gives the head's view of a
/// tensor that has the shape of O, of_key that of a tensor that has the shape of K.
template <class Visit>
void for_each_head(const Tensor& q, const AttentionOptions& o, const Visit& visit) {
  const std::int64_t d = q.cols() / o.heads, group = o.heads / o.kv_heads;
  for (std::int64_t b = 0; b < o.batch; ++b)
    for (std::int64_t h = 0; h < o.heads; ++h) {
      const auto head_of = [&](std::int64_t head) {
        return [=, &o](const Tensor& x) {
          return x.row_range(b * o.seq, (b + 1) * o.seq).column_range(head * d, (head + 1) * d);
        };
      };
      visit(b, h, head_of(h), head_of(h / group));
    }
}

template <int later = 0, bool by_d = false>
Tensor head_by_head(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                    AttentionSaved& saved) {
  saved = {q, k, v, Tensor::empty(q.rows(), q.cols(), q.dtype()), {}, {}};
  for_each_head(q, o, [&](auto b, auto h, const auto& of_head, const auto& of_key) {
    const AttentionHead head(of_head(q), of_key(k), of_key(v), o, b, h, {later, by_d});
    of_head(saved.o).copy_from(head.forward());
  });
  return saved.o;
}

inline void head_by_head_backward(const Tensor& d_o, const AttentionSaved& saved, const AttentionOptions& o,
                                  const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  dk.zero(), dv.zero();
  for_each_head(saved.q, o, [&](auto b, auto h, const auto& of_head, const auto& of_key) {
    const AttentionHead head(of_head(saved.q), of_key(saved.k), of_key(saved.v), o, b, h, {});
    head.backward(of_head(d_o), of_head(dq), of_key(dk), of_key(dv));
  });
}

inline const Core reference_core{head_by_head<>, head_by_head_backward};

/// A linear function in the place of the softmax, which is exact on integers:
/// o = q + k + v of each query head.
inline const Core linear_core{
    [](const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o, AttentionSaved& saved) {
      saved = {q, k, v, q.copy(), {}, {}};
      for_each_head(q, o, [&](auto, auto, const auto& of_head, const auto& of_key) {
        for (const Tensor& x : {k, v}) add_to(of_head(saved.o), of_key(x));
      });
      return saved.o;
    },
    [](const Tensor& dy, const AttentionSaved&, const AttentionOptions& o, const Tensor& dq, const Tensor& dk,
       const Tensor& dv) {
      dq.copy_from(dy);
      dk.zero();
      for_each_head(dy, o, [&](auto, auto, const auto& of_head, const auto& of_key) {
        add_to(of_key(dk), of_head(dy));
      });
      dv.copy_from(dk);
    }};

/// The unsplit layers, forward and backward. Each product takes note of its largest sum of absolute terms,
/// which scales the bounds.
class Reference {
 public:
  Reference(const Inputs<Tensor>& in, AttentionShape shape, Core core)
      : in_(in), shape_(std::move(shape)), core_(std::move(core)) {}
  virtual ~Reference() = default;
  MeasuredReference results;  // the backward adds "d" + name for each weight
  double epsilon = 1e-5;      // of the layer norms

  Tensor linear(const std::string& name, const Tensor& x) {
    inputs_[name] = x;
    const Tensor w = in_(name + ".weight");
    results.largest_sum[name] = largest_terms(x, w) + largest(in_(name + ".bias"));
    return add_bias(matmul(x, w), in_(name + ".bias"));
  }
  Tensor linear_backward(const std::string& name, const Tensor& dy) {
    const Tensor& x = inputs_.at(name);
    const Tensor w = in_(name + ".weight");
    note("d" + name + ".weight", matmul(t(x), dy), largest_terms(t(x), dy));
    note("d" + name + ".bias", sum_rows(dy), largest(sum_rows(absolute(dy))));
    results.largest_sum[name + " dX"] = largest_terms(dy, t(w));
    return matmul(dy, t(w));
  }

  Tensor norm(const std::string& name, const Tensor& x) {
    norms_[name] = layer_norm(x, in_(name + ".weight"), in_(name + ".bias"), epsilon);
    return norms_[name].y;
  }
  Tensor norm_backward(const std::string& name, const Tensor& dy) {
    const LayerNorm& saved = norms_.at(name);
    const Tensor w = in_(name + ".weight"), dw = zero_gradient(w), db = zero_gradient(w);
    add_layer_norm_weights(dw, db, dy, saved);
    const double sum = largest(sum_rows(absolute(dy)));
    // |x - mean| inverse_deviation of a row of W elements is at most sqrt(W).
    note("d" + name + ".weight", dw, sum * std::sqrt(w.cols()));
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
  const Inputs<Tensor>& inputs() const { return in_; }
  const Tensor& heads(const std::string& name) const { return heads_.at(name).o; }

  virtual Tensor mlp(const std::string& name, const Tensor& x) {
    pre_[name] = linear(name + "c_fc", x);
    return linear(name + "c_proj", gelu(pre_[name]));
  }
  virtual Tensor mlp_backward(const std::string& name, const Tensor& dy) {
    return linear_backward(name + "c_fc", gelu_backward(linear_backward(name + "c_proj", dy), pre_.at(name)));
  }

  /// `h` is the prefix of the names of the block's weights: "" or "h.0.".
  Tensor block(const std::string& h, const Tensor& x) {
    const Tensor mid = add(x, dropout_of(attention(h + "attn", norm(h + "ln_1", x)), options(), 1));
    return add(mid, dropout_of(mlp(h + "mlp.", norm(h + "ln_2", mid)), options(), 2));
  }
  Tensor block_backward(const std::string& h, const Tensor& dy) {
    const Tensor dn = mlp_backward(h + "mlp.", dropout_of(dy, options(), 2));
    const Tensor dmid = add(dy, norm_backward(h + "ln_2", dn));
    const Tensor da = attention_backward(h + "attn", dropout_of(dmid, options(), 1));
    return add(dmid, norm_backward(h + "ln_1", da));
  }

  void note(const std::string& name, const Tensor& result, double largest_sum) {
    results.note(name, result, largest_sum);
  }
  double sum_of(const std::string& name) const { return results.largest_sum.at(name); }

 private:
  /// GPT-2's layout is written down here once more: with q_k_v, the cut model would be compared with itself.
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
