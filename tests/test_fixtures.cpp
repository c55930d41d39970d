// Our f64 results against PyTorch's (tests/fixtures/make_fixtures.py): a witness that nobody here wrote.
#include <cmath>

#include "01_mlp/mlp.hpp"
#include "11_context_parallel/ulysses.hpp"
#include "app/bounded.hpp"
#include "fixture.hpp"
#include "ops/attention.hpp"
#include "reference.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

class Fixtures {
 public:
  explicit Fixtures(const std::string& file) : tensors_(load_fixture(file)) {}

  /// A copy on this thread's device: optimisers write into theirs.
  Tensor operator[](const std::string& name) const {
    const Tensor tensor = Tensor::empty(at(name).rows(), at(name).cols(), at(name).dtype());
    tensor.copy_from(at(name));
    return tensor;
  }

  /// Both sides round in f64 and sum in different orders: a relative 1e-12 for each element, and 1e-14 of the
  /// largest for those that are small differences of large terms. In f32 we round 2^29 times as coarsely.
  void check(const std::string& name, const Tensor& actual) const {
    const double units = actual.dtype() == DType::f32 ? 0x1p29 : 1, most = largest(at(name));
    const test::Matrix truth = elements_of(at(name));
    REQUIRE(most > 0);
    CAPTURE(name);
    CHECK(wrong(actual, truth.rows, truth.cols, [&](Index i, Index j) {
            return test::Bounded{truth(i, j), units * (1e-12 * std::abs(truth(i, j)) + 1e-14 * most)};
          }) == "");
  }

 private:
  const Tensor& at(const std::string& name) const {
    expect(tensors_.contains(name), "the fixtures have no " + name);
    return tensors_.at(name);
  }
  Tensors tensors_;
};

}  // namespace

TEST_CASE_ON_EVERY_DEVICE("PyTorch: every function and its gradient") {
  const Fixtures torch("ops.safetensors");
  torch.check("gelu.y", gelu(torch["x"]));
  torch.check("gelu.dx", gelu_backward(torch["dy"], torch["x"]));
  torch.check("relu.y", relu(torch["x"]));
  torch.check("relu.dx", relu_backward(torch["dy"], torch["x"]));

  const Tensor x = torch["linear.x"], a = torch["linear.A"], dy = torch["linear.dy"];
  torch.check("linear.y", add_bias(matmul(x, a), torch["linear.c"]));
  torch.check("linear.dx", matmul(dy, t(a)));
  torch.check("linear.dA", matmul(t(x), dy));
  torch.check("linear.dc", sum_rows(dy));

  const Tensor ids = torch["embedding.ids"], table = torch["embedding.table"];
  torch.check("embedding.y", embedding(ids, table));
  const Tensor dtable = Tensor::zeros(table.rows(), table.cols(), DType::f64);
  add_embedding_backward(dtable, torch["embedding.dy"], ids);
  torch.check("embedding.dtable", dtable);

  const CrossEntropy entropy = cross_entropy(torch["ce.logits"], torch["ce.targets"]);
  torch.check("ce.losses", entropy.loss);
  torch.check("ce.mean", scale(sum_rows(entropy.loss), 1.0 / 6));
  torch.check("ce.dlogits", cross_entropy_backward(entropy, torch["ce.targets"], 6));
  // BERT's objective: 3 of the 6 rows are to be guessed, and count twice in a mean over 6.
  const Tensor weights = scale(torch["ce.guessed"], 2);
  torch.check("ce.masked_mean", scale(sum_rows(scale_rows(entropy.loss, weights)), 1.0 / 6));
  torch.check("ce.masked_dlogits",
              scale_rows(cross_entropy_backward(entropy, torch["ce.targets"], 6), weights));

  const Tensor gamma = torch["ln.gamma"];
  const LayerNorm norm = layer_norm(torch["ln.x"], gamma, torch["ln.beta"]);
  const Tensor dgamma = Tensor::zeros(1, 7, DType::f64), dbeta = Tensor::zeros(1, 7, DType::f64);
  add_layer_norm_weights(dgamma, dbeta, torch["ln.dy"], norm);
  torch.check("ln.y", norm.y);
  torch.check("ln.dx", layer_norm_backward(torch["ln.dy"], norm, gamma));
  torch.check("ln.dgamma", dgamma);
  torch.check("ln.dbeta", dbeta);

  torch.check("softmax.p", softmax(torch["softmax.x"]));
  torch.check("softmax.dx", softmax_backward(torch["softmax.dp"], torch["softmax.p"]));
}

TEST_CASE_ON_EVERY_DEVICE("PyTorch: attention under every mask, with all and with grouped kv heads") {
  const Fixtures torch("attention.safetensors");
  const std::pair<const char*, Mask> masks[] = {
      {"causal", Mask::causal}, {"none", Mask::none}, {"padding", Mask::padding}};
  for (const auto& [name, mask] : masks)
    for (const int kv_heads : {1, 2, 4})
      for (const auto form : {AttentionOptions::Form::plain, AttentionOptions::Form::streaming}) {
        const std::string prefix = format("{}.kv{}.", name, kv_heads);
        const Tensor q = torch[prefix + "q"], k = torch[prefix + "k"], v = torch[prefix + "v"];
        AttentionOptions options{.batch = 2, .seq = 5, .heads = 4, .kv_heads = kv_heads, .mask = mask};
        options.lengths = torch["lengths"], options.form = form;
        AttentionSaved saved;
        torch.check(prefix + "o", attention(q, k, v, options, saved));
        const Tensor dq = empty_like(q), dk = empty_like(k), dv = empty_like(v);
        attention_backward(torch[prefix + "do"], saved, options, dq, dk, dv);
        torch.check(prefix + "dq", dq);
        torch.check(prefix + "dk", dk);
        torch.check(prefix + "dv", dv);
      }
}

TEST_CASE(
    "PyTorch: causal attention over tokens that are cut, every way, with all and with grouped kv heads") {
  using namespace context_parallel;
  const Fixtures torch("context.safetensors");
  for (const int ranks : {2, 4})
    for (const Way way : {Way::ring, Way::gather, Way::ulysses})
      for (const int kv_heads : {1, 2, 4})
        for (const DType dtype : {DType::f64, DType::f32}) {
          const std::string prefix = format("causal.kv{}.", kv_heads);
          const Layout layout{2, 16, ranks, kv_heads != 2};
          const AttentionOptions options{.batch = 2, .seq = 16, .heads = 4, .kv_heads = kv_heads};
          Tensors found;
          for (const char* name : {"o", "dq", "dk", "dv"}) found[name] = cast(torch[prefix + name], dtype);
          for (const auto& [name, whole] : found) whole.zero();
          on_ranks(ranks, [&](Communicator& cp) {
            const auto own = [&](const char* name) {
              const Tensor whole = torch[prefix + name];
              return cast(layout.slice(whole.cols(), cp.rank()).extract(whole), dtype);
            };
            const auto core = make_core(way, cp, layout, options);
            AttentionSaved saved;
            const Tensor q = own("q"), k = own("k"), v = own("v"), dq = empty_like(q), dk = empty_like(k),
                         dv = empty_like(v);
            const Tensor o = core.forward(q, k, v, options, saved);
            core.backward(own("do"), saved, options, dq, dk, dv);
            for (const auto& [name, part] : {std::pair{"o", o}, {"dq", dq}, {"dk", dk}, {"dv", dv}})
              layout.slice(part.cols(), cp.rank()).insert(found.at(name), part);  // other rows on each rank
          });
          CAPTURE(ranks);
          for (const auto& [name, whole] : found) torch.check(prefix + name, whole);
        }
}

TEST_CASE_ON_EVERY_DEVICE("PyTorch: three steps of SGD with momentum and of AdamW") {
  const Fixtures torch("ops.safetensors");
  const auto zeros = [] { return Tensor::zeros(3, 4, DType::f64); };
  const Tensor w = torch["optim.w0"], velocity = zeros();
  const Tensor u = torch["optim.w0"], m = zeros(), v = zeros();
  const AdamW options{.lr = 0.01, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .decay = 0.1};
  for (const int step : {1, 2, 3}) {
    const Tensor g = torch[format("optim.g{}", step)];
    sgd(w, velocity, g, 0.1, 0.9);
    torch.check(format("sgd.w{}", step), w);
    adamw(u, m, v, g, options, step);
    torch.check(format("adamw.w{}", step), u);
  }
}

TEST_CASE_ON_EVERY_DEVICE("PyTorch: the two-layer MLP, by lesson 01") {
  const Fixtures torch("mlp.safetensors");
  const mlp::Mlp model{torch["A"], torch["c1"], torch["B"], torch["c2"]};
  const mlp::Step step = mlp::step(model, torch["X"], torch["dY"]);
  torch.check("H", step.saved.h);
  torch.check("Y", step.y);
  torch.check("dX", step.dx);
  torch.check("dA", model.da);
  torch.check("dc1", model.dc1);
  torch.check("dB", model.db);
  torch.check("dc2", model.dc2);
}
