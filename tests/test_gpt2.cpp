// Our GPT-2, whole and cut, against that of Hugging Face transformers (tests/fixtures/make_gpt2.py).
#include <algorithm>

#include "cut_gpt.hpp"
#include "fixture.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// A file of Hugging Face's by the names of the model's weights, in f64: without the prefix of the class with
/// a head, the masks, and the head, which must be wte.
Tensors weights_of(const Tensors& file) {
  Tensors weights;
  for (const auto& [key, tensor] : file) {
    const std::string prefix = "transformer.";
    const std::string name = key.starts_with(prefix) ? key.substr(prefix.size()) : key;
    if (!name.ends_with(".attn.bias") && !name.ends_with(".attn.masked_bias"))
      weights[name] = cast(tensor, DType::f64);
  }
  if (const auto head = weights.extract("lm_head.weight"))
    expect(largest_difference(head.mapped(), weights.at("wte.weight")) == 0,
           "lm_head.weight is not wte.weight");
  return weights;
}

WholeStep hugging_face() {
  WholeStep whole;
  whole.model.attention = {32, 8, 8, {}};
  whole.model.attention.options.batch = 16;
  whole.model.attention.options.seq = 12;
  whole.model.layers = 8;
  whole.model.vocabulary = 67;
  whole.model.tokens = 192;
  whole.model.tied = true;
  whole.make = [weights = weights_of(load_fixture("gpt2/model.safetensors"))](const std::string& name,
                                                                              const Slice& slice) {
    return slice.extract(weights.at(name)).to(Device::current());
  };
  const Tensors fixture = load_fixture("gpt2.safetensors");
  whole.batch = {fixture.at("tokens"), fixture.at("targets")};
  whole.results["loss"] = fixture.at("loss");
  for (const auto& info : gpt::weights_of(whole.model))
    whole.results["d" + info.name] = fixture.at("d." + info.name);
  return whole;
}

}  // namespace

TEST_CASE("Hugging Face's GPT-2: the whole model has its loss and gradients") {
  const WholeStep whole = hugging_face();
  const auto ours = gpt::reference_step(whole.inputs(), whole.model, whole.batch).results;
  CHECK(ours.size() == whole.results.size());
  for (const auto& [name, truth] : whole.results)
    CHECK(message_from([&, &name = name, &truth = truth] {
            expect_close(name, ours.at(name), truth, largest(truth), 1e-10);
          }) == "");
}

TEST_CASE("Hugging Face's GPT-2: so has every factorisation of 1, 2, 4 and 8 ranks, under every schedule") {
  check_every_cut(hugging_face(), 1e-10);
}

TEST_CASE("Hugging Face's GPT-2: files hold exactly our weights, masks and an equal head may be there") {
  Tensors file = load_fixture("gpt2/model.safetensors");
  const Tensors weights = weights_of(file);
  const auto infos = gpt::weights_of(hugging_face().model);
  CHECK(weights.size() == infos.size());
  for (const auto& info : infos)
    CHECK(shape(weights.at(info.name)) == format("({}, {}) f64", info.rows, info.cols));

  file["transformer.h.0.attn.bias"] = file["transformer.h.0.attn.masked_bias"] =
      Tensor::zeros(1, 1, DType::f32);
  file["lm_head.weight"] = file.at("transformer.wte.weight").copy();
  CHECK(weights_of(file).size() == weights.size());
  file["lm_head.weight"].data<float>()[66 * 32 + 31] += 1;
  CHECK(contains(message_from([&] { weights_of(file); }), "lm_head.weight is not wte.weight"));
}
