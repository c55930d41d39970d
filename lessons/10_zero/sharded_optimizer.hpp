// How lesson 08's trainer trains under ZeRO: each replica steps the range that it owns of every unit (wte,
// wpe, each block, the last norm, the head's matrix). The trainer computes part by part: part 0 of the model
// is the embedding, then come the blocks, then the head. So communication goes on beside computation:
//
//   forward, dX:  while a part computes, the weights of the next one arrive (the prefetch; stage 3)
//   dW:           while a part computes, the gradients of the one behind it are summed over the replicas
//
// At most two parts are whole at a time, of the weights and of the gradients. Each element of a
// gradient that a rank owns is then summed over tp or over the embedding group like a whole gradient.
#pragma once

#include "08_three_d/config.hpp"
#include "10_zero/units.hpp"

namespace tessera::zero {

// begin optimizer
class ShardedOptimizer : public data_parallel::Optimizer {
 public:
  ShardedOptimizer(const three_d::TrainingConfig& config, Communicator& dp, Communicator& expert_dp)
      : config_(config), dp_(dp), expert_dp_(expert_dp), units_(config.zero, config.rule()) {}

  /// A row is shared out by the ranks that hold the same one: of experts these are fewer.
  void add(const Tensor& weights, const Tensor& gradients, bool experts) override {
    units_.add(weights, gradients, experts ? expert_dp_ : dp_);
    of_experts_ += experts;
  }
  void attach(const std::vector<gpt::Parameter>& parameters,
              const std::vector<std::int64_t>& elements) override {
    std::size_t index = 0;
    units_of_.resize(static_cast<std::size_t>(config_.model.layers) + 2);
    for (std::size_t u = 0; u < elements.size(); ++u) {
      units_of_[part_of(u, parameters[index].name)].push_back(u);
      for (std::int64_t at = 0; at < elements[u]; at += parameters[index++].value.size())
        own(u, at, parameters.at(index));
    }
    opened_in_ = summed_in_ = units_of_;
    if (!config_.model.tied || units_of_.front().empty() || units_of_.back().empty()) return;
    // The head computes with wte, too. Its gradient has a term from each end, the head's first.
    units_of_.back().push_back(0), opened_in_.back().push_back(0);
    opened_in_.front().erase(opened_in_.front().begin());
  }

  // begin around
  /// Runs `compute` while the part has its whole weights.
  void around(gpt::Pass pass, std::size_t part, const std::function<void()>& compute) override {
    if (pass == gpt::Pass::backward_weight) return sum_around(part, compute);  // dA = X' dY needs no weights
    for (const std::size_t u : units_of_[part]) units_.wait_for(u);
    const std::size_t next = pass == gpt::Pass::forward ? part + 1 : part - 1;
    if (config_.prefetch && next > 0 && next < units_of_.size())  // the embedding has no dX
      for (const std::size_t u : units_of_[next]) units_.start(u);
    timed(format("part {}{}", part, pass == gpt::Pass::forward ? "" : ", dX"), compute);
    for (const std::size_t u : units_of_[part]) units_.drop(u);
  }

  /// Runs `compute` while the part has room for its whole gradients, then begins to sum them. The sums that
  /// the part before began have had this time.
  void sum_around(std::size_t part, const std::function<void()>& compute) {
    if (part + 1 != summed_) finish();  // another microbatch or chunk begins
    for (const std::size_t u : opened_in_[part]) units_.open_gradients(u);
    timed(format("part {}, dW", part), compute);
    finish();
    summing_ = summed_in_[part];
    const bool last = ++computed_[part] == config_.microbatches;
    for (const std::size_t u : summing_) units_.reduce(u, last);
    summed_ = part;
  }
  // end around

  void zero_gradients() override { units_.zero_gradients(), computed_.clear(); }
  void finish() override {
    for (const std::size_t u : summing_) units_.finish(u);
    summing_.clear();
  }
  void step(std::int64_t number, double shrink) override { units_.step(number, shrink); }
  std::size_t sums(bool experts) const override {
    return experts ? of_experts_ : units_.units().size() - of_experts_;
  }

 private:
  /// The part of the model that a unit belongs to, by its first parameter.
  std::size_t part_of(std::size_t u, const std::string& first) const {
    if (first.starts_with("h.")) return std::stoul(first.substr(2)) + 1;
    return first == "wpe.weight" || (first == "wte.weight" && u == 0) ? 0 : units_of_.size() - 1;
  }

  /// Computes, and shows it as a bar in the trace.
  void timed(const std::string& name, const std::function<void()>& compute) const {
    const Moment began = dp_.journal().moment();
    compute();
    dp_.journal().span(name, "layer", began);
  }

  /// Lists what this rank owns of a parameter that begins at place `at` of unit u: a range, all, or nothing.
  void own(std::size_t u, std::int64_t at, const gpt::Parameter& one) {
    const Unit& unit = units_.units()[u];
    const std::int64_t c = unit.own_gradients.cols(), first = unit.dp->rank() * c, n = one.value.size(),
                       none = 0;
    const auto piece = [&](const Tensor& row) {
      return row.column_range(std::clamp(at - first, none, c), std::clamp(at + n - first, none, c));
    };
    owned.push_back(
        {one.name, one.slice, piece(unit.master), piece(unit.own_gradients), one.partial, one.expert});
    begins.push_back(std::clamp(first - at, none, n));
    for (std::size_t k = 0; k < state.size(); ++k)
      if (unit.state[k].defined()) state[k].push_back(piece(unit.state[k]));
  }

  three_d::TrainingConfig config_;
  Communicator &dp_, &expert_dp_;
  ShardedUnits units_;
  std::size_t of_experts_ = 0;  // the number of units with experts
  // The units of each part of the model, none where this rank does not have the part: those whose weights the
  // part needs, whose gradients get room before its dW, and whose gradients are complete after its dW.
  std::vector<std::vector<std::size_t>> units_of_, opened_in_, summed_in_;
  std::map<std::size_t, int> computed_;  // of each part, the microbatches whose dW is done
  std::vector<std::size_t> summing_;     // the units whose gradients are under way
  std::size_t summed_ = 0;               // the part that they belong to
};

/// Lesson 08's trainer under stage `stage`.
inline void use_in(three_d::TrainingConfig& training, int stage) {
  training.zero = stage;
  if (stage > 0)
    training.parts.optimizer = [](const three_d::TrainingConfig& config,
                                  const three_d::Mesh& mesh) -> std::unique_ptr<data_parallel::Optimizer> {
      return std::make_unique<ShardedOptimizer>(config, *mesh.dp_cp, *mesh.expert_dp);
    };
}
// end optimizer

}  // namespace tessera::zero
