// Shared by the tests that cut a GPT three ways: one step under every cut, against the whole's.
#pragma once

#include <cmath>

#include "01_mlp/text_model.hpp"
#include "08_three_d/harness/proof.hpp"
#include "gpt/harness/proof.hpp"
#include "models.hpp"
#include "proven.hpp"

namespace tessera::test {

/// The file of the optimiser's state in a checkpoint.
inline std::string optimizer_file(const std::string& folder) {
  return gpt::in_folder(folder, SafetensorsFile(gpt::model_file(folder)).metadata().at("optimizer"));
}
/// All tensors of a checkpoint, by our names.
inline std::map<std::string, Tensor> checkpoint_of(const std::string& folder) {
  std::map<std::string, Tensor> all = load_safetensors(optimizer_file(folder));
  for (const auto& [name, tensor] : load_safetensors(gpt::model_file(folder)))
    all[name.starts_with("transformer.") ? name.substr(12) : name] = tensor;
  return all;
}
/// The bytes of both files of a checkpoint.
inline std::string bytes_of(const std::string& folder) {
  return mlp::read_text(gpt::model_file(folder)) + mlp::read_text(optimizer_file(folder));
}

/// The run `s`, which now goes on from a checkpoint.
inline three_d::Config resumed(three_d::Config s, const std::string& folder) {
  s.resume = folder;
  s.weights = std::make_shared<const gpt::WeightsFile>(gpt::model_file(folder), "--resume");
  return s;
}

/// The losses of a run, which leaves a checkpoint where `save` says.
inline std::vector<double> losses_of(const three_d::Config& s, DType dtype = DType::f64) {
  return on_rank_0(s.sizes.ranks(), [&](Communicator& world) {
    const three_d::Mesh mesh(world, s.sizes);
    three_d::Trainer trainer = three_d::make_trainer(mesh, s, dtype, 3);
    return three_d::train(world, trainer, s, 3);
  });
}

/// The same, after all checks of lesson 08: the gradients of the first step, the losses, bytes and memory.
inline std::vector<double> checked_losses_of(const three_d::Config& s, DType dtype = DType::f64) {
  const auto [outcome, found] = outcome_and_found(s.sizes.ranks(), s, floating(dtype));
  CHECK(faults(outcome) == "");
  return found.run.losses;
}

/// A step in f64: the model and its batch of 8 microbatches, on the host. The replicas share them out.
struct Step {
  gpt::ModelConfig model;  // 8 layers; options.batch: sequences of the whole batch
  gpt::MakeWeight make;
  gpt::Tokens batch;
  Named<Tensor> results;  // what must come out: "loss" (1, 1), and for each weight "d" + its name

  Named<Tensor> reference() const {
    return gpt::reference_step(gpt::whole_weights(model, make), model, batch).results;
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

/// The step on one rank of the mesh: every gradient that it holds, the loss and the norm are the whole's.
inline void expect_whole(const Step& step, const three_d::Mesh& mesh, const three_d::TrainingConfig& training,
                         double relative) {
  three_d::Trainer trainer(mesh, training, DType::f64, step.make);
  const auto mine =
      three_d::own_microbatches(step.batch, {.sizes = mesh.sizes, .training = training}, trainer);
  const Tensor sum = mesh.dp_cp->all_reduce(Tensor::of(1, 1, {trainer.gradients(mine)}));
  for (const gpt::Parameter& one : trainer.with_gradients()) {
    const Tensor& truth = step.results.at("d" + one.name);
    expect_close(one.name, one.gradient, one.slice.extract(truth), largest(truth), relative);
  }
  const Tensor& loss = step.results.at("loss");
  if (mesh.pp->rank() == mesh.sizes.pp - 1)
    expect_close("loss", scale(sum, 1.0 / step.model.tokens), loss, largest(loss), relative);
  double squares = 0;
  for (const auto& [name, truth] : step.results)
    if (name != "loss")
      for (const double g : truth.values()) squares += g * g;
  const double norm = std::sqrt(squares);
  expect_close("the norm", Tensor::of(1, 1, {trainer.norm()}), Tensor::of(1, 1, {norm}), norm, relative);
}

/// Calls f(ranks, sizes, training) for every factorisation of 1, 2, 4 and 8 ranks and every schedule that a
/// model of 8 layers and a batch of 8 microbatches allow. A microbatch is the batch of `model`.
template <class F>
void under_every_cut(const gpt::ModelConfig& model, const F& f) {
  Thin thin;
  for (const int ranks : {1, 2, 4, 8})
    for (const three_d::ParallelSizes& sizes : factorisations(ranks))
      for (const auto& [schedule, name] : pipeline::schedule_names) {
        const bool interleaved = schedule == pipeline::Schedule::interleaved;
        three_d::TrainingConfig training{.model = model, .schedule = schedule};
        training.chunks = interleaved ? 2 : 1;
        training.microbatches = 8 / sizes.dp;
        if (interleaved && (sizes.pp == 1 || sizes.pp * 2 > 8 || training.microbatches % sizes.pp != 0))
          continue;
        if (thin.skips()) continue;
        const std::string cut = name + ", " + text(sizes);
        CAPTURE(cut);
        f(ranks, sizes, training);
      }
}

/// expect_whole on every rank under every cut. `compose` may change the parts of the trainer.
inline void check_every_cut(
    const Step& step, double relative,
    const std::function<void(three_d::TrainingConfig&)>& compose = [](three_d::TrainingConfig&) {}) {
  gpt::ModelConfig model = step.model;
  model.attention.options.batch /= 8;
  under_every_cut(model,
                  [&](int ranks, const three_d::ParallelSizes& sizes, three_d::TrainingConfig& training) {
                    compose(training);
                    CHECK(message_of(ranks, [&](Communicator& world) {
                            expect_whole(step, three_d::Mesh(world, sizes), training, relative);
                          }) == "");
                  });
}

}  // namespace tessera::test
