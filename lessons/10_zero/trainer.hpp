// How lesson 08 trains under ZeRO: the units are the parts of its chunks (wte, wpe, each block, the last
// norm, a copy of wte), and each element of a gradient that a rank owns is then summed over tp or over the
// embedding group like a whole gradient.
#pragma once

#include "08_three_d/config.hpp"
#include "10_zero/units.hpp"

namespace tessera::zero {

// begin trainer
class ShardedOptimizer : public data_parallel::Optimizer {
 public:
  ShardedOptimizer(const three_d::TrainingConfig& config, Communicator& dp)
      : layers_(static_cast<std::size_t>(config.model.layers)),
        tied_(config.model.tied),
        units_(config.zero, config.adamw, dp) {
    units_.rule = config.rule();
  }

  void attach(const TensorRow& weights, const TensorRow& gradients,
              const std::vector<gpt::Parameter>& parameters) override {
    std::size_t index = 0;
    units_of_.resize(layers_ + 2);
    for (std::size_t u = 0; u < weights.elements().size(); ++u) {
      units_.add(weights.all(u), gradients.all(u));
      first_.push_back(index);
      units_of_[part_of(u, parameters[index].name)].push_back(u);
      for (std::int64_t at = 0; at < weights.elements()[u]; at += parameters[index++].value.size())
        own(u, at, parameters.at(index));
    }
    next_ = first_.size();
    if (tied_ && !units_of_.front().empty() && !units_of_.back().empty()) units_of_.back().push_back(0);
  }

  /// Runs `compute` while the part has its whole weights, or room for its whole gradients. At stage 3 the
  /// next part's weights arrive meanwhile.
  void around(gpt::Pass pass, std::size_t part, const std::function<void()>& compute) override {
    const std::vector<std::size_t>& units = units_of_[part];
    if (pass == gpt::Pass::backward_weight) {  // needs no weights: dA = X' dY
      for (const std::size_t u : units)
        if (part > 0 || !of_both_ends(u)) units_.open_gradients(u);
      compute();
      for (const std::size_t u : units)
        if (part == 0 || !of_both_ends(u)) units_.reduce(u, true);
      return;
    }
    for (const std::size_t u : units) units_.wait_for(u);
    const std::size_t next = pass == gpt::Pass::forward ? part + 1 : part - 1;
    if (next > 0 && next < units_of_.size())
      for (const std::size_t u : units_of_[next]) units_.start(u);
    compute();
    for (const std::size_t u : units) units_.drop(u);
  }

  void zero_gradients() override { units_.zero_gradients(); }
  void ready_from(std::size_t first) override {
    if (units_.stage() > 1) return;  // every microbatch has reduced its own
    for (; next_ > 0 && first_[next_ - 1] >= first; --next_) units_.reduce(next_ - 1, true);
  }
  void finish() override { next_ = first_.size(); }
  void step(std::int64_t number, double shrink) override {
    units_.step(number, units_.rule.constants.lr, shrink);
  }
  std::size_t sums() const override { return first_.size(); }
  Communicator* sharers() const override { return &units_.dp(); }

 private:
  /// Of the model: 0 is the embedding, then come the layers, then the head.
  std::size_t part_of(std::size_t u, const std::string& first) const {
    if (first.starts_with("h.")) return std::stoul(first.substr(2)) + 1;
    return first == "wpe.weight" || (first == "wte.weight" && u == 0) ? 0 : layers_ + 1;
  }
  /// The head computes with the matrix of the embedding. Its gradient has a term from each, the head's first.
  bool of_both_ends(std::size_t u) const {
    return u == 0 && !units_of_.back().empty() && units_of_.back().back() == u;
  }

  /// What this rank owns of a parameter that begins at place `at` of unit u: a range of it, all, or nothing.
  void own(std::size_t u, std::int64_t at, const gpt::Parameter& one) {
    const Unit& unit = units_.units()[u];
    const std::int64_t c = unit.own_gradients.cols(), first = units_.dp().rank() * c, n = one.value.size();
    const std::int64_t begin = std::clamp(first - at, std::int64_t{0}, n),
                       end = std::clamp(first + c - at, std::int64_t{0}, n);
    const auto piece = [&](const Tensor& row) {
      return begin == end ? row.column_range(0, 0) : row.column_range(at + begin - first, at + end - first);
    };
    owned.push_back({one.name, one.slice, piece(unit.master), piece(unit.own_gradients), one.partial});
    begins.push_back(begin);
    for (std::size_t k = 0; k < units_.rule.numbers(); ++k) state[k].push_back(piece(unit.state[k]));
  }

  std::size_t layers_;
  bool tied_;
  ShardedUnits units_;
  std::vector<std::size_t> first_;                  // the first parameter of each unit
  std::vector<std::vector<std::size_t>> units_of_;  // each part of the model, empty where this rank has none
  std::size_t next_ = 0;                            // the units from here on have been reduced
};

/// Lesson 08's trainer under stage `stage`.
inline void use_in(three_d::TrainingConfig& training, int stage) {
  training.zero = stage;
  if (stage > 0)
    training.parts.optimizer = [](const three_d::TrainingConfig& config,
                                  Communicator& dp) -> std::unique_ptr<data_parallel::Optimizer> {
      return std::make_unique<ShardedOptimizer>(config, dp);
    };
}
// end trainer

}  // namespace tessera::zero
