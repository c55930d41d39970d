// The layer by its definition, which the ranks are compared with: all tokens at once, no row is moved.
#pragma once

#include "12_experts/harness/sizes.hpp"
#include "app/proof.hpp"

namespace tessera::experts {

inline std::string expert_name(std::int64_t i) { return format("experts.{}.", i); }

/// alpha E sum f_i P_i, over the tokens of each of `parts` ranks by themselves, and then the mean of the
/// parts.
inline double aux_loss(const Choices& choices, const Config& c, int parts) {
  const auto& [E, p, rank, kept] = choices;
  double sum = 0;
  for (int part = 0; part < parts; ++part) {
    const Range own = data_parallel::own_rows(c.tokens, part, parts);
    for (std::int64_t i = 0; i < E; ++i) {
      double chosen = 0, mean = 0;
      for (std::int64_t at = own.begin * E + i; at < own.end * E; at += E)
        chosen += rank[at] < c.top_k, mean += p[at] / double(own.size());
      if (own.size() > 0) sum += c.aux * double(E) * chosen / double(own.size() * c.top_k) * mean;
    }
  }
  return sum / parts;
}

/// The papers' formulas, line by line: every expert computes every token, and a gate that is 0 leaves out
/// what the expert does not get. `in` has the weights by their names behind `name`.
class Reference {
 public:
  Reference(const Inputs<Tensor>& in, const Config& c, int ranks, const std::string& name = "")
      : in_(in), c_(c), ranks_(ranks), name_(name) {}
  MeasuredReference found;  // aux, Y, and by backward dX and the gradients "d" + a weight's name

  Tensor forward(const Tensor& x) {
    x_ = x, wide_ = cast(x, arithmetic(x.dtype()));
    w_ = cast(in_(name_ + "router.weight"), wide_.dtype());
    p_ = softmax(matmul(wide_, w_));
    choices_.emplace(p_, c_, ranks_);
    const auto& [E, p, rank, kept] = *choices_;
    gates_.assign(p.size(), 0), sums_.assign(x.rows(), c_.top_k == 1 ? 1 : 0), even_.assign(E, 0);
    for (std::size_t at = 0; at < p.size(); ++at) {
      if (rank[at] >= c_.top_k) continue;
      if (c_.top_k > 1) sums_[at / E] += p[at];  // g_i = p_i / the sum of the chosen p
      even_[at % E] += c_.aux * double(E) / double(c_.top_k * x.rows() * x.rows());  // alpha E f_i / N
    }
    for (std::size_t at = 0; at < p.size(); ++at)
      if (rank[at] < c_.top_k) gates_[at] = p[at] / sums_[at / E];
    const Tensor y = Tensor::zeros(x.rows(), x.cols(), wide_.dtype());
    double sum = 0;
    for (std::int64_t i = 0; i < E; ++i) {
      const auto weight = [&](const char* which) { return in_(name_ + expert_name(i) + which); };
      experts_.push_back(
          {weight("c_fc.weight"), weight("c_fc.bias"), weight("c_proj.weight"), weight("c_proj.bias")});
      y_.push_back(experts_[i].forward(x, steps_.emplace_back()));
      add_to(y, cast(scale_rows(y_[i], kept_gates(i)), y.dtype()));
      sum += largest_terms(steps_[i].h, experts_[i].b) + largest(absolute(experts_[i].c2));
    }
    const double aux = aux_loss(*choices_, c_, 1);
    found.note("aux", Tensor::of(1, 1, {aux}, wide_.dtype()), aux);
    found.note("Y", cast(y, x.dtype()), sum);
    return found.results.at("Y");
  }

  Tensor backward(const Tensor& dy) {
    const auto& [E, p, rank, kept] = *choices_;
    const Tensor dx = Tensor::zeros(x_.rows(), x_.cols(), wide_.dtype());
    std::vector<double> dgates(p.size()), means(x_.rows()), dp(p.size());
    double sum = 0;
    for (std::int64_t i = 0; i < E; ++i) {
      const mlp::Mlp& expert = experts_[i];
      mlp::Mlp::Saved& s = steps_[i];
      const auto dots = row_dots(dy, y_[i]).values();  // dg_i = <dY, E_i(X)>
      for (std::size_t at = i; at < p.size(); at += E)
        if (kept[at]) dgates[at] = dots[at / E], means[at / E] += gates_[at] * dots[at / E];
      add_to(dx, cast(expert.backward_input(scale_rows(dy, kept_gates(i)), s), dx.dtype()));
      expert.backward_weight(s);
      const std::string name = "d" + name_ + expert_name(i);
      found.note(name + "c_fc.weight", expert.da, largest_terms(t(x_), s.dpre));
      found.note(name + "c_fc.bias", expert.dc1, largest(sum_rows(absolute(s.dpre))));
      found.note(name + "c_proj.weight", expert.db, largest_terms(t(s.h), s.dy));
      found.note(name + "c_proj.bias", expert.dc2, largest(sum_rows(absolute(s.dy))));
      sum += largest_terms(s.dpre, t(expert.a));
    }
    for (std::size_t at = 0; at < p.size(); ++at) {
      if (rank[at] < c_.top_k) dp[at] = (dgates[at] - (c_.top_k > 1 ? means[at / E] : 0)) / sums_[at / E];
      dp[at] += even_[at % E];
    }
    const Tensor dz = softmax_backward(Tensor::of(p_.rows(), E, dp, p_.dtype()), p_);
    add_to(dx, matmul(dz, t(w_)));
    found.note("d" + name_ + "router.weight", matmul(t(wide_), dz), largest_terms(t(wide_), dz));
    found.note("dX", cast(dx, x_.dtype()), sum + largest_terms(dz, t(w_)));
    return found.results.at("dX");
  }

 private:
  Tensor kept_gates(std::int64_t expert) const {  // (N, 1)
    std::vector<double> column;
    for (std::size_t at = expert; at < gates_.size(); at += c_.experts)
      column.push_back(choices_->kept[at] ? gates_[at] : 0);
    return Tensor::of(x_.rows(), 1, column, wide_.dtype());
  }

  const Inputs<Tensor>& in_;
  Config c_;
  int ranks_;
  std::string name_;
  Tensor x_, wide_, w_, p_;
  std::optional<Choices> choices_;
  std::vector<double> gates_, sums_, even_;  // (N, E), (N), (E)
  std::vector<mlp::Mlp> experts_;
  std::vector<mlp::Mlp::Saved> steps_;
  std::vector<Tensor> y_;
};

}  // namespace tessera::experts
