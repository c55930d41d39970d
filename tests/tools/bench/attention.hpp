// Causal attention by itself, forward and backward, in either form.
#pragma once

#include "bench.hpp"
#include "ops/attention.hpp"

namespace tessera::bench {

class AttentionJob {
 public:
  AttentionJob(const GptSizes& s, AttentionOptions::Form form)
      : width_(s.width),
        qkv_(numbers(s.tokens(), 3 * s.width)),
        dy_(numbers(s.tokens(), s.width)),
        dqkv_(numbers(s.tokens(), 3 * s.width)) {
    options_.batch = s.batch;
    options_.seq = s.seq;
    options_.heads = options_.kv_heads = s.heads;
    options_.form = form;
  }

  /// Returns the bytes that it keeps between the two, beside its arguments and its result.
  double operator()() const {
    AttentionSaved saved;
    attention(part(qkv_, 0), part(qkv_, 1), part(qkv_, 2), options_, saved);
    const double kept = static_cast<double>((saved.p.defined() ? saved.p : saved.log_sum).bytes());
    attention_backward(dy_, saved, options_, part(dqkv_, 0), part(dqkv_, 1), part(dqkv_, 2));
    return kept;
  }

 private:
  Tensor part(const Tensor& x, int i) const { return x.column_range(i * width_, (i + 1) * width_); }

  std::int64_t width_;
  Tensor qkv_, dy_, dqkv_;
  AttentionOptions options_;
};

}  // namespace tessera::bench
