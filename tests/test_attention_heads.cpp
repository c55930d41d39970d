// Lesson 05: every cut of attention and of the block equals the whole, for every mask and number of kv heads;
// the whole equals PyTorch and central differences; and broken by hand, it is caught and named.
#include "05_attention_heads/harness/proof.hpp"
#include "fixture.hpp"
#include "proven.hpp"
#include "reference.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::attention_heads;

namespace {

using Form = AttentionOptions::Form;

Sizes sizes(Part part, Mask mask, std::int64_t kv_heads, double dropout, Form form = Form::automatic) {
  const AttentionOptions options{
      .batch = 3, .seq = 7, .mask = mask, .dropout = dropout, .seed = 5, .form = form};
  Sizes s{{36, 12, kv_heads, options}, part};
  complete(s);
  return s;
}

}  // namespace

TEST_CASE("lesson 05 holds at 1 to 12 ranks, all masks, kv heads and dtypes, with and without dropout") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 6, 12})
    for (const Part part : {Part::attention, Part::block})
      for (const auto& [mask, mask_name] : mask_names)
        for (const std::int64_t kv_heads : {1, 2, 4, 12})
          for (const double dropout : {0.0, 0.3})
            for (const DType dtype : {DType::f32, DType::f64}) {
              if ((kv_heads != 1 && kv_heads % ranks != 0) || thin.skips()) continue;
              for (const Form form : {Form::plain, Form::streaming}) {
                if (form == Form::streaming && (dtype == DType::f32 || part == Part::block)) continue;
                INFO(ranks, " ranks, ", mask_name, ", ", kv_heads, " kv heads, dropout ", dropout);
                const Sizes s = sizes(part, mask, kv_heads, dropout, form);
                CHECK(faults(outcome_of(ranks, s, floating(dtype))) == "");
              }
            }
}

TEST_CASE("the fused (Q|K|V) cut contiguously is caught and named") {
  for (const int ranks : {2, 3, 4}) {
    Sizes s = sizes(Part::attention, Mask::causal, 12, 0);
    s.trap_qkv = true;
    CHECK(contains(faults(outcome_of(ranks, s, floating(DType::f32))), "cut contiguously"));
  }
}

namespace {

/// The sizes of the fixture's block.
Sizes fixture_sizes(Mask mask) {
  Sizes s{{12, 4, 4, {.batch = 2, .seq = 5, .mask = mask}}, Part::block};
  complete(s);
  return s;
}

}  // namespace

TEST_CASE("the unsplit block equals PyTorch: output and every gradient, for each mask") {
  const Device::Scope host(Device::host());  // where files are read to
  const auto fixture = load_fixture("attention.safetensors");
  for (const auto& [mask, mask_name] : mask_names)
    for (const Core& core : {Core{}, reference_core}) {
      Sizes s = fixture_sizes(mask);
      s.shape.options.lengths = fixture.at("lengths");
      const Inputs<Tensor> in = [&](const std::string& name) { return fixture.at("block." + name); };
      int compared = 0;
      for (const auto& [name, result] : reference(in, s, core).results) {
        INFO(mask_name, ", ", name);
        const bool gradient = name != "Y" && name != "dX";
        const Tensor& expected =
            fixture.at(format("block.{}{}", mask_name, gradient ? ".d." + name.substr(1) : "." + name));
        CHECK(largest_difference(result, expected) <= 1e-12 * (1 + largest(expected)));
        ++compared;
      }
      CHECK(compared == 14);
    }
}

TEST_CASE("the unsplit block equals central differences, with grouped queries and dropout") {
  for (const Mask mask : {Mask::causal, Mask::padding}) {
    if (thinned > 1 && mask == Mask::padding) continue;
    Sizes s = fixture_sizes(mask);
    s.shape.kv_heads = 2;
    s.shape.options.dropout = 0.3;
    Tensors tensors;
    const Inputs<Tensor> in = [&](const std::string& name) {
      if (const auto found = tensors.find(name); found != tensors.end()) return found->second;
      const std::int64_t w = s.w(), rows = name == "X" || name == "dY"                         ? s.n()
                                           : name.ends_with("bias") || name.starts_with("ln_") ? 1
                                           : name == "mlp.c_proj.weight"                       ? 4 * w
                                                                                               : w;
      const std::int64_t cols = name.starts_with("attn.c_attn") ? s.qkv()
                                : name.starts_with("mlp.c_fc")  ? 4 * w
                                                                : w;
      return tensors[name] = generate(3, name, Slice::whole(rows, cols), DType::f64, Fill::uniform, 0.5);
    };
    const auto loss = [&] { return weighted(reference(in, s, Core{}).results.at("Y"), in("dY")); };
    const MeasuredReference whole = reference(in, s, Core{});
    for (const auto& [name, gradient] : whole.results) {
      CAPTURE(name);
      const Tensor& of = name == "Y" ? in("dY") : in(name == "dX" ? "X" : name.substr(1));
      CHECK(wrong_gradient(gradient, of, loss) == "");  // the loss is linear in dY: its gradient is Y
    }
  }
}

TEST_CASE(
    "dropout: the halves of a block draw two masks, and a token's mask is that of its place in the batch") {
  const Tensor ones = Tensor::of(24, 8, std::vector<double>(24 * 8, 1));
  AttentionOptions options{.batch = 4, .seq = 6, .dropout = 0.5, .seed = 5};
  const Tensor first = dropout_of(ones, options, 1);
  CHECK(first.values() != dropout_of(ones, options, 2).values());
  options.first_batch = 1;  // a replica that has the sequences from number 1 on
  CHECK(dropout_of(ones.row_range(6, 24), options, 1).values() == first.row_range(6, 24).values());
  CHECK(dropout_of(ones.row_range(9, 24), options, 1, 3).values() == first.row_range(9, 24).values());
}
