// Lesson 05: every cut of attention and of the block equals the whole, for every mask and number of kv heads;
// the whole equals PyTorch and central differences; and broken by hand, it is caught and named.
#include "05_attention_heads/harness/proof.hpp"
#include "fixture.hpp"
#include "proven.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::attention_heads;

namespace {

using Form = AttentionOptions::Form;

Sizes sizes(Part part, Mask mask, std::int64_t kv_heads, double dropout, Form form = Form::automatic) {
  Sizes s;
  s.shape = {36, 12, kv_heads, {}};
  s.shape.options.batch = 3;
  s.shape.options.seq = 7;
  s.shape.options.dropout = dropout;
  s.shape.options.seed = 5;
  s.shape.options.mask = mask;
  s.shape.options.form = form;
  s.part = part;
  complete(s);
  return s;
}

Outcome outcome_of(int ranks, const ProofOptions& options, const Sizes& s) {
  return proven(ranks, options, [&](Proof& proof, Communicator& comm) { prove(proof, comm, s); });
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
              const Sizes s = sizes(part, mask, kv_heads, dropout);
              for (const Form form : {Form::plain, Form::streaming}) {
                if (form == Form::streaming && (dtype == DType::f32 || part == Part::block)) continue;
                CAPTURE(ranks);
                CAPTURE(mask_name);
                CAPTURE(kv_heads);
                CAPTURE(dropout);
                const Outcome outcome =
                    outcome_of(ranks, {Tier::floating, dtype, 3}, sizes(part, mask, kv_heads, dropout, form));
                CHECK(faults(outcome) == "");
                CHECK(outcome.ok());
              }
            }
}

TEST_CASE("lesson 05, exact: the projections of every cut, error 0") {
  for (const int ranks : {1, 2, 3, 4, 6, 12})
    for (const std::int64_t kv_heads : {1, 2, 4, 12})
      for (const DType dtype : {DType::f32, DType::f64}) {
        if (kv_heads != 1 && kv_heads % ranks != 0) continue;
        const Outcome outcome =
            outcome_of(ranks, {Tier::exact, dtype, 3}, sizes(Part::attention, Mask::causal, kv_heads, 0));
        CHECK(faults(outcome) == "");
        CHECK(outcome.ok());
        for (const Check& check : outcome.checks) CHECK(check.error == 0);
      }
}

TEST_CASE("the fused (Q|K|V) cut contiguously is caught and named") {
  for (const int ranks : {2, 3, 4}) {
    Sizes s = sizes(Part::attention, Mask::causal, 12, 0);
    s.trap_qkv = true;
    const Outcome outcome = outcome_of(ranks, {Tier::floating, DType::f32, 3}, s);
    CHECK(!outcome.ok());
    CHECK(contains(faults(outcome), "cut contiguously"));
  }
}

TEST_CASE("the sandwich's own layers, one all-reduce each way, whatever the number of heads") {
  for (const int ranks : {2, 4}) {
    const Outcome one =
        outcome_of(ranks, {Tier::floating, DType::f32, 3}, sizes(Part::attention, Mask::none, 12, 0));
    const Outcome two =
        outcome_of(ranks, {Tier::floating, DType::f32, 3}, sizes(Part::block, Mask::none, 1, 0));
    REQUIRE(one.traffic.size() == 2);
    CHECK(one.traffic[0].calls == 1);
    CHECK(one.traffic[1].calls == 1);
    REQUIRE(two.traffic.size() == 2);
    CHECK(two.traffic[0].calls == 2);
    CHECK(two.traffic[1].calls == 3);  // and [dK dV]
  }
}

namespace {

/// The fixture's block, or its attention alone, by the definition and by ops/attention.
Sizes fixture_sizes(Mask mask) {
  Sizes s;
  s.shape = {12, 4, 4, {}};
  s.shape.options.batch = 2;
  s.shape.options.seq = 5;
  s.shape.options.mask = mask;
  s.part = Part::block;
  complete(s);
  return s;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = a.values(), y = b.values();
  REQUIRE(x.size() == y.size());
  double most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = std::abs(x[i] - y[i]);
    if (!(difference <= most)) most = difference;
  }
  return most;
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
        CAPTURE(mask_name);
        CAPTURE(name);
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
    const MeasuredReference whole = reference(in, s, Core{});
    const auto loss = [&] {
      const auto y = reference(in, s, Core{}).results.at("Y").values(), dy = in("dY").values();
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    for (const auto& [name, result] : whole.results) {
      if (name == "Y") continue;
      const Tensor w = in(name == "dX" ? "X" : name.substr(1));
      const std::vector<double> start = w.values(), gradient = result.values();
      for (std::size_t i = 0; i < start.size(); i += 1 + start.size() / 7) {
        const auto at = [&](double value) {
          std::vector<double> moved = start;
          moved[i] = value;
          w.copy_from(Tensor::of(w.rows(), w.cols(), moved));
          return loss();
        };
        constexpr double h = 1e-5;
        const double slope = (at(start[i] + h) - at(start[i] - h)) / (2 * h);
        CAPTURE(name);
        CHECK(std::abs(slope - gradient[i]) <= 1e-7 * (1 + std::abs(slope)));
      }
      w.copy_from(Tensor::of(w.rows(), w.cols(), start));
    }
  }
}
