// Our GPT-2, whole and cut, against that of Hugging Face transformers (tests/fixtures/make_gpt2.py): one step
// under every cut and every schedule.
#include "09_sequence_parallel/parts.hpp"
#include "cut_gpt.hpp"
#include "fixture.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

Step hugging_face() {
  Step step{
      .model = model_of(
          {.width = 32, .heads = 8, .layers = 8, .vocabulary = 67, .batch = 16, .seq = 12, .tied = true})};
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

}  // namespace

TEST_CASE("Hugging Face's GPT-2: the whole model has its loss and gradients, and so has every cut") {
  Step step = hugging_face();
  const auto ours = step.reference();
  CHECK(ours.size() == step.results.size());
  for (const auto& [name, truth] : step.results)
    CHECK_NOTHROW(expect_close(name, ours.at(name), truth, largest(truth), 1e-10));
  step.results = ours;  // a cut is as near to our whole model as sums in another order are
  check_every_cut(step, 1e-13);
  for (const bool regather : {false, true})  // and with tokens cut over tp
    check_every_cut(step, 1e-13, [&](three_d::TrainingConfig& training) {
      sequence_parallel::use_in(training, regather);
    });
}
