// Attention as it is defined, sequence by sequence and head by head, with nothing but products and a softmax:
// what ops/attention.hpp computes faster, and the baseline of this lesson.
#pragma once

#include <cmath>

#include "05_attention_heads/attention_heads.hpp"

namespace tessera::attention_heads {

/// Two ways to get it wrong, for the checks to name: keys after the query are seen, scores are divided by d.
struct Wrong {
  int later = 0;
  bool by_d = false;
};

// begin by_head
/// One head of one sequence: P = softmax(Q K' / sqrt(d) + mask), dropped where dropout says so; O = P V.
class AttentionHead {
 public:
  AttentionHead(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                std::int64_t batch, std::int64_t head, Wrong wrong)
      : q_(q), k_(k), v_(v), factor_(std::pow(q.cols(), wrong.by_d ? -1 : -0.5)) {
    const Tensor scores = scale(matmul(q, t(k)), factor_);   // (S, S)  how much token i wants of token j
    p_ = softmax(add(scores, mask(o, batch, wrong.later)));  // (S, S)  each row sums to 1
    const std::int64_t first_row = ((o.first_batch + batch) * o.all_heads + o.first_head + head) * o.seq;
    const std::vector<double> ones(static_cast<std::size_t>(o.seq * o.seq), 1);
    kept_ = dropout(Tensor::of(o.seq, o.seq, ones, q.dtype()), o.dropout, o.seed, {.first_row = first_row});
  }

  /// (S, d)  a mean of the values, weighted by P
  Tensor forward() const { return matmul(times(p_, kept_), v_); }

  /// dP = dO V', dS = P (dP - sum_k dP_k P_k), dQ = dS K, dK = dS' Q, dV = P' dO.
  void backward(const Tensor& d_o, const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
    const Tensor dp = times(matmul(d_o, t(v_)), kept_);
    const Tensor ds = scale(softmax_backward(dp, p_), factor_);  // (S, S)
    dq.copy_from(matmul(ds, k_));
    add_matmul(dk, t(ds), q_);  // added: several query heads may share this key
    add_matmul(dv, t(times(p_, kept_)), d_o);
  }
  // end by_head

 private:
  /// 0 where query i may look at key j, minus infinity where not.
  Tensor mask(const AttentionOptions& o, std::int64_t batch, int later) const {
    const auto length = o.mask == Mask::padding ? o.lengths.row_range(batch, batch + 1).values()[0]
                                                : static_cast<double>(o.seq);
    std::vector<double> values;
    for (std::int64_t i = 0; i < o.seq; ++i)
      for (std::int64_t j = 0; j < o.seq; ++j)
        values.push_back((o.mask == Mask::causal && j > i + later) || !(j < length) ? -INFINITY : 0);
    return Tensor::of(o.seq, o.seq, values, q_.dtype());
  }
  /// Element by element, by way of the host: this is the baseline, nobody waits for it.
  static Tensor times(const Tensor& a, const Tensor& b) {
    std::vector<double> x = a.values();
    const std::vector<double> y = b.values();
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= y[i];
    return Tensor::of(a.rows(), a.cols(), x, a.dtype());
  }

  Tensor q_, k_, v_, p_, kept_;
  double factor_;
};

/// Calls visit(AttentionHead, its view of O's shape, its view of K's shape) for each head of each sequence.
template <class Visit>
void for_each_head(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o, Wrong wrong,
                   const Visit& visit) {
  const std::int64_t d = q.cols() / o.heads, group = o.heads / o.kv_heads;
  for (std::int64_t b = 0; b < o.batch; ++b)
    for (std::int64_t h = 0; h < o.heads; ++h) {
      const auto head_of = [&](std::int64_t head) {
        return [=, &o](const Tensor& x) {
          return x.row_range(b * o.seq, (b + 1) * o.seq).column_range(head * d, (head + 1) * d);
        };
      };
      const auto of_head = head_of(h), of_key = head_of(h / group);
      visit(AttentionHead(of_head(q), of_key(k), of_key(v), o, b, h, wrong), of_head, of_key);
    }
}

template <int later = 0, bool by_d = false>
Tensor head_by_head(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                    AttentionSaved& saved) {
  saved = {q, k, v, Tensor::empty(q.rows(), q.cols(), q.dtype()), {}, {}};
  for_each_head(q, k, v, o, {later, by_d}, [&](const AttentionHead& head, const auto& of_head, const auto&) {
    of_head(saved.o).copy_from(head.forward());
  });
  return saved.o;
}

inline void head_by_head_backward(const Tensor& d_o, const AttentionSaved& saved, const AttentionOptions& o,
                                  const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  dk.zero(), dv.zero();
  for_each_head(saved.q, saved.k, saved.v, o, {},
                [&](const AttentionHead& head, const auto& of_head, const auto& of_key) {
                  head.backward(of_head(d_o), of_head(dq), of_key(dk), of_key(dv));
                });
}

inline constexpr Core reference_core{head_by_head<>, head_by_head_backward};

}  // namespace tessera::attention_heads
