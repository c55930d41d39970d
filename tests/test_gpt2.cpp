// Our GPT-2, whole and cut, against that of Hugging Face transformers (tests/fixtures/make_gpt2.py): one step
// under every cut and every schedule.
#include <cmath>

#include "08_three_d/config.hpp"
#include "fixture.hpp"
#include "gpt/harness/reference.hpp"
#include "models.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// A step in f64: the model and its batch on the host, which is 8 microbatches that the replicas share.
struct Step {
  gpt::ModelConfig model = model_of(
      {.width = 32, .heads = 8, .layers = 8, .vocabulary = 67, .batch = 16, .seq = 12, .tied = true});
  gpt::MakeWeight make;
  gpt::Tokens batch;
  Named<Tensor> results;  // what must come out: "loss" (1, 1), and for each weight "d" + its name
};

Step hugging_face() {
  Step step;
  const auto file = std::make_shared<const gpt::WeightsFile>(fixtures + "gpt2/model.safetensors");
  file->check(step.model);
  step.make = gpt::initial_weights(step.model, file, DType::f64, 0);
  const Tensors fixture = load_fixture("gpt2.safetensors");
  step.batch = {fixture.at("tokens"), fixture.at("targets")};
  step.results["loss"] = fixture.at("loss");
  for (const auto& info : gpt::weights_of(step.model))
    step.results["d" + info.name] = fixture.at("d." + info.name);
  return step;
}

/// No element of `actual` is off by more than `relative` times `most`, the largest of the whole tensor of
/// which `truth` may be a slice.
void expect_close(const std::string& name, const Tensor& actual, const Tensor& truth, double most,
                  double relative) {
  const double error = largest_difference(actual, truth);
  expect(most > 0 && error <= relative * most,
         format("{} is off by {:g}, the largest is {:g}", name, error, most));
}

/// The step on one rank of the mesh: every gradient that it holds, the loss and the norm are the whole's.
void expect_whole(const Step& step, const three_d::Mesh& mesh, const three_d::TrainingConfig& training,
                  double relative) {
  three_d::Trainer trainer(mesh, training, DType::f64, step.make);
  const auto mine =
      three_d::own_microbatches(step.batch, {.sizes = mesh.sizes, .training = training}, trainer);
  const Tensor sum = mesh.dp->all_reduce(Tensor::of(1, 1, {trainer.gradients(mine)}));
  for (const gpt::Parameter& one : trainer.parameters()) {
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

}  // namespace

TEST_CASE("Hugging Face's GPT-2: the whole model has its loss and gradients, and so has every cut") {
  Step step = hugging_face();
  const Inputs<Tensor> weights = [&](const std::string& name) {
    for (const auto& info : gpt::weights_of(step.model))
      if (info.name == name) return step.make(name, Slice::whole(info.rows, info.cols));
    throw Error("no weight " + name);
  };
  const auto ours = gpt::reference_step(weights, step.model, step.batch).results;
  CHECK(ours.size() == step.results.size());
  for (const auto& [name, truth] : step.results)
    CHECK_NOTHROW(expect_close(name, ours.at(name), truth, largest(truth), 1e-10));

  step.results = ours;  // a cut is as near to our whole model as sums in another order are
  Thin thin;
  for (const int ranks : {1, 2, 4, 8})
    for (const three_d::ParallelSizes& sizes : factorisations(ranks))
      for (const auto& [schedule, name] : pipeline::schedule_names) {
        const bool interleaved = schedule == pipeline::Schedule::interleaved;
        three_d::TrainingConfig training{.model = step.model, .schedule = schedule};
        training.chunks = interleaved ? 2 : 1;
        training.microbatches = 8 / sizes.dp;
        training.model.attention.options.batch /= 8;
        if (interleaved && (sizes.pp == 1 || sizes.pp * 2 > 8 || training.microbatches % sizes.pp != 0))
          continue;
        if (thin.skips()) continue;
        INFO(name, ", ", text(sizes));
        CHECK(message_of(ranks, [&](Communicator& world) {
                expect_whole(step, three_d::Mesh(world, sizes), training, 1e-13);
              }) == "");
      }
}
