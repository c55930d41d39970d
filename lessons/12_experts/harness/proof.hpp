// What lesson 12 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "12_experts/harness/sizes.hpp"
#include "app/proof.hpp"

namespace tessera::experts {

inline std::string expert_name(std::int64_t i) { return format("experts.{}.", i); }

/// A layer from the papers' formulas, for all N tokens at once: every expert computes every token, and a factor
/// that is 0 leaves out what the expert does not get. `in` has the layer's names behind `name`. Takes note of the
/// gradient of each weight, and of the auxiliary loss; returns Y, and then dX for dY.
class Reference {
 public:
  Reference(const Inputs<Tensor>& in, const Config& c, int ranks, std::string name = "")
      : in_(in), c_(c), ranks_(ranks), name_(std::move(name)) {}
  MeasuredReference found;

  Tensor forward(const Tensor& x) {
    x_ = x, wide_ = cast(x, arithmetic(x.dtype()));
    w_ = cast(in_(name_ + "router.weight"), wide_.dtype());
    p_ = softmax(matmul(wide_, w_));
    choices_.emplace(p_, c_, ranks_);
    gates_ = table([&](std::int64_t at) { return choices_->rank[at] < c_.top_k ? choices_->p[at] : 0; });
    if (c_.top_k > 1) {  // g_i = p_i / sum of the chosen p
      const auto sums = sum_columns(gates_).values(), g = gates_.values();
      gates_ = table([&](std::int64_t at) { return g[at] / sums[at / c_.experts]; });
      sums_ = sums;
    }
    const Tensor y = Tensor::zeros(x.rows(), x.cols(), wide_.dtype());
    double sum = 0;
    for (std::int64_t i = 0; i < c_.experts; ++i) {
      steps_.push_back({});
      const Tensor a = in_(name_ + expert_name(i) + "c_fc.weight"), b = in_(name_ + expert_name(i) + "c_proj.weight");
      experts_.push_back({a, in_(name_ + expert_name(i) + "c_fc.bias"), b, in_(name_ + expert_name(i) + "c_proj.bias")});
      outs_.push_back(experts_.back().forward(x, steps_.back()));
      add_to(y, cast(scale_rows(outs_.back(), kept_gates(i)), y.dtype()));
      sum += largest_terms(steps_.back().h, b) + largest(absolute(experts_.back().c2));
    }
    found.note(name_ + "Y", cast(y, x.dtype()), sum);
    note_aux();
    return found.results.at(name_ + "Y");
  }

  Tensor backward(const Tensor& dy) {
    const Tensor dx = Tensor::zeros(x_.rows(), x_.cols(), wide_.dtype());
    std::vector<double> dgates(choices_->p.size());
    double sum = 0;
    for (std::int64_t i = 0; i < c_.experts; ++i) {
      const auto dots = row_dots(dy, outs_[i]).values();
      for (std::int64_t t = 0; t < c_.tokens; ++t) dgates[t * c_.experts + i] = choices_->kept[t * c_.experts + i] ? dots[t] : 0;
      const mlp::Mlp& expert = experts_[i];
      mlp::Mlp::Saved& s = steps_[i];
      add_to(dx, cast(expert.backward_input(scale_rows(dy, kept_gates(i)), s), dx.dtype()));
      expert.backward_weight(s);
      const std::string name = "d" + name_ + expert_name(i);
      found.note(name + "c_fc.weight", expert.da, largest_terms(t(x_), s.dpre));
      found.note(name + "c_fc.bias", expert.dc1, largest(sum_rows(absolute(s.dpre))));
      found.note(name + "c_proj.weight", expert.db, largest_terms(t(s.h), s.dy));
      found.note(name + "c_proj.bias", expert.dc2, largest(sum_rows(absolute(s.dy))));
      sum += largest_terms(s.dpre, t(expert.a));
    }
    const Tensor dz = softmax_backward(table(of_probabilities(dgates)), p_);
    add_to(dx, matmul(dz, t(w_)));
    found.note("d" + name_ + "router.weight", matmul(t(wide_), dz), largest_terms(t(wide_), dz));
    found.note(name_ + "dX", cast(dx, x_.dtype()), sum + largest_terms(dz, t(w_)));
    return found.results.at(name_ + "dX");
  }

  /// aux = alpha E sum f_i P_i over the tokens of `parts` equal parts each by itself, and then their mean.
  double aux(int parts) const {
    double sum = 0;
    for (int part = 0; part < parts; ++part) {
      const Range own = data_parallel::own_rows(c_.tokens, part, parts);
      const auto n = double(own.size());
      for (std::int64_t i = 0; n > 0 && i < c_.experts; ++i) {
        double chosen = 0, p = 0;
        for (std::int64_t at = own.begin * c_.experts + i; at < own.end * c_.experts; at += c_.experts)
          chosen += choices_->rank[at] < c_.top_k, p += choices_->p[at];
        sum += c_.aux * double(c_.experts) * chosen / (n * c_.top_k) * p / n;
      }
    }
    return sum / parts;
  }
  const Choices& choices() const { return *choices_; }

 private:
  template <class F>
  Tensor table(const F& f) const {  // (N, E)
    std::vector<double> values;
    for (std::int64_t at = 0; at < p_.size(); ++at) values.push_back(f(at));
    return Tensor::of(p_.rows(), p_.cols(), values, p_.dtype());
  }
  /// dp for dg: a quotient of a chosen p and the sum of the chosen ones, for k > 1; and the auxiliary loss's.
  auto of_probabilities(const std::vector<double>& dgates) const {
    return [this, &dgates, g = gates_.values()](std::int64_t at) {
      double dp = dgates[at];
      if (c_.top_k > 1) {
        for (std::int64_t j = at - at % c_.experts; j < (at / c_.experts + 1) * c_.experts; ++j) dp -= g[j] * dgates[j];
        dp = choices_->rank[at] < c_.top_k ? dp / sums_[at / c_.experts] : 0;
      }
      double chosen = 0;
      for (std::int64_t j = at % c_.experts; j < p_.size(); j += c_.experts) chosen += choices_->rank[j] < c_.top_k;
      return dp + c_.aux * double(c_.experts) * chosen / double(c_.tokens * c_.top_k) / double(c_.tokens);
    };
  }
  Tensor kept_gates(std::int64_t expert) const {
    std::vector<double> column;
    const auto g = gates_.values();
    for (std::int64_t at = expert; at < gates_.size(); at += c_.experts) column.push_back(choices_->kept[at] ? g[at] : 0);
    return Tensor::of(std::ssize(column), 1, column, gates_.dtype());
  }
  static Tensor sum_columns(const Tensor& x) {
    return row_dots(x, add_bias(Tensor::zeros(x.rows(), x.cols(), x.dtype()), Tensor::of(1, x.cols(), std::vector<double>(x.cols(), 1), x.dtype())));
  }
  void note_aux() { found.note(name_ + "aux", Tensor::of(1, 1, {aux(1)}, p_.dtype()), aux(1)); }

  const Inputs<Tensor>& in_;
  Config c_;
  int ranks_;
  std::string name_;
  Tensor x_, wide_, w_, p_, gates_;
  std::vector<double> sums_;
  std::optional<Choices> choices_;
  std::vector<mlp::Mlp> experts_;
  std::vector<mlp::Mlp::Saved> steps_;
  std::vector<Tensor> outs_;
};
}  // namespace tessera::experts
