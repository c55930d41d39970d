// Shared by the tests that cut a GPT three ways: one step under every cut, against the whole's.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "08_three_d/trainer.hpp"
#include "gpt/harness/reference.hpp"
#include "gpt/tokens.hpp"
#include "support.hpp"

namespace tessera::test {

/// The largest |a - b|, over tensors of equal shapes. Infinity where one is NaN.
inline double largest_difference(const Tensor& a, const Tensor& b) {
  expect_eq(shape(a), shape(b), "shapes");
  const auto x = a.values(), y = b.values();
  double most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = std::abs(x[i] - y[i]);
    if (std::isnan(difference)) return INFINITY;
    most = std::max(most, difference);
  }
  return most;
}

/// One step of the whole model, in f64: its weights, its batch on the host, and what must come out.
struct WholeStep {
  gpt::ModelConfig model;  // tied; options.batch: sequences of the whole batch
  gpt::MakeWeight make;
  gpt::Tokens batch;
  Named<Tensor> results;  // "loss" (1, 1), and for each weight "d" + its name

  Inputs<Tensor> inputs() const {
    return [this](const std::string& weight) {
      for (const auto& info : gpt::weights_of(model))
        if (info.name == weight) return make(weight, Slice::whole(info.rows, info.cols));
      throw Error("no weight " + weight);
    };
  }
  double norm() const {
    double squares = 0;
    for (const auto& info : gpt::weights_of(model))
      for (const double g : results.at("d" + info.name).values()) squares += g * g;
    return std::sqrt(squares);
  }
};

/// No element of `actual` is off by more than `relative` times `most`, the largest of the whole tensor of
/// which `truth` may be a slice.
inline void expect_close(const std::string& name, const Tensor& actual, const Tensor& truth, double most,
                         double relative) {
  const double error = largest_difference(actual, truth);
  expect(most > 0 && error <= relative * most,
         format("{} is off by {:g}, the largest is {:g}", name, error, most));
}

/// The step on one rank of the mesh: every gradient it holds, the loss and the norm are the whole's.
inline void expect_whole(const WholeStep& whole, const three_d::Mesh& mesh,
                         const three_d::TrainingConfig& training, double relative) {
  three_d::Trainer trainer(mesh, training, DType::f64, whole.make);
  const auto parts = gpt::microbatches_of(whole.batch, training.microbatches * mesh.sizes.dp);
  std::vector<gpt::Tokens> mine;
  for (int i = 0; i < training.microbatches; ++i) {
    const auto& part = parts[static_cast<std::size_t>(mesh.dp->rank() * training.microbatches + i)];
    mine.push_back(gpt::local_tokens(part, whole.model, trainer.tp()));
  }
  const Tensor sum = mesh.dp->all_reduce(Tensor::of(1, 1, {trainer.gradients(mine)}));
  for (const gpt::Parameter& one : trainer.parameters()) {
    const Tensor& truth = whole.results.at("d" + one.name);
    expect_close(one.name, one.gradient, one.slice.extract(truth), largest(truth), relative);
  }
  const Tensor loss = scale(sum, 1 / static_cast<double>(whole.model.tokens));
  const Tensor& truth = whole.results.at("loss");
  if (mesh.pp->rank() == mesh.sizes.pp - 1) expect_close("loss", loss, truth, largest(truth), relative);
  const double norm = whole.norm();
  expect_close("the norm", Tensor::of(1, 1, {trainer.norm()}), Tensor::of(1, 1, {norm}), norm, relative);
}

/// Every factorisation of n into tp x pp x dp.
inline std::vector<three_d::ParallelSizes> factorisations(int n) {
  std::vector<three_d::ParallelSizes> all;
  for (int t = 1; t <= n; ++t)
    for (int p = 1; p <= n; ++p)
      for (int d = 1; d <= n; ++d)
        if (t * p * d == n) all.push_back({t, p, d});
  return all;
}

/// expect_whole on every rank, for every factorisation of 1, 2, 4 and 8 ranks and every schedule that the
/// sizes allow. The model has 8 layers; its batch is 8 microbatches, shared by the replicas.
/// `composed` may make another trainer of it.
inline void check_every_cut(
    const WholeStep& whole, double relative,
    const std::function<void(three_d::TrainingConfig&)>& composed = [](three_d::TrainingConfig&) {}) {
  using pipeline::Schedule;
  Thin thin;
  for (const int ranks : {1, 2, 4, 8})
    for (const three_d::ParallelSizes& sizes : factorisations(ranks))
      for (const auto& one : pipeline::schedule_names) {
        const Schedule schedule = one.first;
        three_d::TrainingConfig training;
        training.model = whole.model;
        training.model.attention.options.batch /= 8;
        training.microbatches = 8 / sizes.dp;
        training.schedule = schedule;
        training.chunks = schedule == Schedule::interleaved ? 2 : 1;
        composed(training);
        if (schedule == Schedule::interleaved &&
            (sizes.pp == 1 || sizes.pp * 2 > 8 || training.microbatches % sizes.pp != 0))
          continue;
        if (thin.skips()) continue;
        CAPTURE(one.second);
        CAPTURE(sizes.tp);
        CAPTURE(sizes.pp);
        CAPTURE(sizes.dp);
        const std::string fault = message_of(ranks, [&](Communicator& world) {
          const three_d::Mesh mesh(world, sizes);
          expect_whole(whole, mesh, training, relative);
        });
        CHECK(fault == "");
      }
}

}  // namespace tessera::test
