// The layer by its definition, with which the ranks are compared: all tokens at once, and no row is moved.
#pragma once

#include "12_experts/harness/sizes.hpp"
#include "app/proof.hpp"
#include "gpt/harness/proof.hpp"

namespace tessera::experts {

/// The papers' formulas, line by line: every expert computes every token, and a gate that is 0 leaves out
/// what the expert does not get. `in` has the weights by their names, which begin with `name`. The auxiliary
/// loss is the mean over the microbatches. Where operands are rounded to few bits, a token that nearly
/// chooses another expert may do so: a gradient has room for all such tokens.
class LayerReference {
 public:
  LayerReference(const Inputs<Tensor>& in, const Config& c, int ranks, const std::string& name = "",
                 int microbatches = 1)
      : in_(in), c_(c), ranks_(ranks), name_(name), microbatches_(microbatches) {}
  MeasuredReference found;  // aux and Y; after backward dX and the gradients, "d" + the weight's name

  Tensor forward(const Tensor& x) {
    x_ = x, wide_ = cast(x, arithmetic(x.dtype()));
    w_ = cast(in_(name_ + "router.weight"), wide_.dtype());
    p_ = softmax(matmul(wide_, w_));
    choices_.emplace(p_.values(), c_, ranks_);
    for (std::int64_t at = 0; at < p_.size(); ++at) undecided_.push_back(choices_->undecided(at, 0x1p-4));
    const std::int64_t E = c_.experts, all = p_.size(), N = x.rows();
    gates_.assign(all, 0), sums_.assign(N, c_.top_k == 1 ? 1 : 0), aux_gradient_.assign(microbatches_ * E, 0);
    for (std::int64_t at = 0; at < all; ++at) {
      if (!choices_->chosen(at)) continue;
      if (c_.top_k > 1) sums_[at / E] += choices_->p[at];  // g_i = p_i / the sum of the chosen p
      aux_gradient_[index_of_aux(at)] +=
          c_.aux * double(E * microbatches_) / double(c_.top_k * N * N);  // alpha E share_i / N
    }
    for (std::int64_t at = 0; at < all; ++at)
      if (choices_->chosen(at)) gates_[at] = choices_->p[at] / sums_[at / E];
    const Tensor y = Tensor::zeros(N, x.cols(), wide_.dtype());
    double sum = 0;
    for (std::int64_t i = 0; i < E; ++i) {
      std::vector<Tensor> w;
      for (const Weight& one : c_.weights()) w.push_back(in_(name_ + expert_name(i) + one.name));
      experts_.push_back({w[0], w[1], w[2], w[3]});
      y_.push_back(experts_[i].forward(x, steps_.emplace_back()));
      add_to(y, cast(scale_rows(y_[i], column(i, gates_, choices_->kept)), y.dtype()));
      sum += largest_terms(steps_[i].h, w[2]) + largest(absolute(w[3]));
    }
    const double aux = choices_->aux(microbatches_);
    found.note("aux", Tensor::of(1, 1, {aux}, wide_.dtype()), aux);
    found.note("Y", cast(y, x.dtype()), sum);
    return found.results.at("Y");
  }

  /// How many choices of a token, in the mean, rounding may change.
  double undecided() const {
    return double(std::ranges::count(undecided_, true)) / double(std::max<std::int64_t>(x_.rows(), 1));
  }

  Tensor backward(const Tensor& dy) {
    const std::int64_t E = c_.experts, all = p_.size();
    const Tensor dx = Tensor::zeros(x_.rows(), x_.cols(), wide_.dtype());
    std::vector<double> dgates(all), means(x_.rows()), dp(all);
    double sum = 0;
    for (std::int64_t i = 0; i < E; ++i) {
      const auto dots = row_dots(dy, y_[i]).values();  // dg_i = <dY, E_i(X)>
      for (std::int64_t at = i; at < all; at += E)
        if (choices_->kept[at]) dgates[at] = dots[at / E], means[at / E] += gates_[at] * dots[at / E];
      mlp::Mlp::Saved& s = steps_[i];
      add_to(dx, cast(experts_[i].backward_input(scale_rows(dy, column(i, gates_, choices_->kept)), s),
                      dx.dtype()));
      experts_[i].backward_weight(s);
      mlp::Mlp::Saved others = s;
      experts_[i].backward_input(scale_rows(dy, column(i, p_.values(), undecided_)), others);
      const auto sums = sums_of(s), room = sums_of(others);
      for (std::size_t k = 0; k < 4; ++k) {
        const Weight one = c_.weights()[k];
        found.note("d" + name_ + expert_name(i) + one.name, experts_[i].*one.gradient, sums[k], room[k]);
      }
      sum += largest_terms(s.dpre, t(experts_[i].a));
    }
    for (std::int64_t at = 0; at < all; ++at) {
      const double mean = c_.top_k > 1 ? means[at / E] : 0;
      dp[at] =
          aux_gradient_[index_of_aux(at)] + (choices_->chosen(at) ? (dgates[at] - mean) / sums_[at / E] : 0);
    }
    const Tensor dz = softmax_backward(Tensor::of(p_.rows(), E, dp, p_.dtype()), p_);
    add_to(dx, matmul(dz, t(w_)));
    found.note("d" + name_ + "router.weight", matmul(t(wide_), dz), largest_terms(t(wide_), dz));
    found.note("dX", cast(dx, x_.dtype()), sum + largest_terms(dz, t(w_)));
    return found.results.at("dX");
  }

 private:
  /// The index in aux_gradient_ that belongs to element `at` of a table (N, E).
  std::int64_t index_of_aux(std::int64_t at) const {
    return at / (p_.size() / microbatches_) * c_.experts + at % c_.experts;
  }
  /// The largest sum of absolute terms in each gradient of an expert.
  std::array<double, 4> sums_of(const mlp::Mlp::Saved& s) const {
    return {largest_terms(t(x_), s.dpre), largest(sum_rows(absolute(s.dpre))), largest_terms(t(s.h), s.dy),
            largest(sum_rows(absolute(s.dy)))};
  }
  /// Of a table (N, E) what stands in an expert's column, 0 where `which` is false. (N, 1)
  Tensor column(std::int64_t expert, const std::vector<double>& table, const std::vector<bool>& which) const {
    std::vector<double> column;
    for (std::int64_t at = expert; at < p_.size(); at += c_.experts)
      column.push_back(which[at] ? table[at] : 0);
    return Tensor::of(x_.rows(), 1, column, wide_.dtype());
  }

  const Inputs<Tensor>& in_;
  Config c_;
  int ranks_;
  std::string name_;
  int microbatches_;
  Tensor x_, wide_, w_, p_;
  std::optional<Choices> choices_;
  std::vector<double> gates_, sums_, aux_gradient_;  // (N, E), (N), (microbatches, E)
  std::vector<bool> undecided_;                      // (N, E)
  std::vector<mlp::Mlp> experts_;
  std::vector<mlp::Mlp::Saved> steps_;
  std::vector<Tensor> y_;
};

/// Lesson 08's unsplit model, whose blocks may have experts.
struct GptReference : attention_heads::Reference {
  using attention_heads::Reference::Reference;
  gpt::ModelConfig config;
  int microbatches = 1;
  std::map<std::string, std::optional<LayerReference>> layers;

  /// Where a token goes to another expert, every sum of the model changes, not those of experts alone.
  void finish() {
    for (const auto& [of, layer] : layers)
      for (auto& [name, room] : results.room)
        if (!gpt::of_expert(name)) room += results.largest_sum.at(name) * layer->undecided();
  }

  Tensor mlp(const std::string& name, const Tensor& x) override {
    if (!config.has_experts(std::stoll(name.substr(2)))) return attention_heads::Reference::mlp(name, x);
    const Config c{x.rows(), x.cols(), config.ffn(), config.experts, config.top_k, 1, 0, config.aux};
    return layers[name].emplace(inputs(), c, 1, name, microbatches).forward(x);
  }
  Tensor mlp_backward(const std::string& name, const Tensor& dy) override {
    if (!layers.contains(name)) return attention_heads::Reference::mlp_backward(name, dy);
    const Tensor dx = layers.at(name)->backward(dy);
    for (const auto& [result, value] : layers.at(name)->found.results)
      results.note(result, value, layers.at(name)->found.largest_sum.at(result),
                   layers.at(name)->found.room.at(result));
    return dx;
  }
};
inline MeasuredReference reference_step(const Inputs<Tensor>& in, const gpt::ModelConfig& m,
                                        const gpt::Tokens& batch, int microbatches) {
  return gpt::reference_step<GptReference>(in, m, batch, microbatches);
}

}  // namespace tessera::experts
