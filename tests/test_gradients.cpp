// Gradients against central differences in f64, and what a training step promises beside its values.
#include <numeric>

#include "ops/ops.hpp"
#include "reference.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// The two-layer network of the lessons with a loss: the smallest program that uses most functions.
struct Network {
  Tensor x, a, c1, b, c2, targets;
  explicit Network(DType dtype, Index n = 7, Index in = 5, Index hidden = 9, Index out = 4)
      : x(tensor_of(uniform("X", n, in), dtype)),
        a(tensor_of(uniform("A", in, hidden), dtype)),
        c1(tensor_of(uniform("c1", 1, hidden), dtype)),
        b(tensor_of(uniform("B", hidden, out), dtype)),
        c2(tensor_of(uniform("c2", 1, out), dtype)) {
    std::vector<double> ids;
    for (Index i = 0; i < n; ++i) ids.push_back(static_cast<double>((i * i + 1) % out));
    targets = ids_of(ids);
  }

  double loss() const {
    const Tensor y = add_bias(matmul(gelu(add_bias(matmul(x, a), c1)), b), c2);
    const auto losses = cross_entropy(y, targets).loss.values();
    return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(x.rows());
  }

  struct Gradients {
    Tensor x, a, c1, b, c2;
  };
  Gradients gradients() const {
    const Tensor z = add_bias(matmul(x, a), c1), h = gelu(z);  // (N, hidden)
    const CrossEntropy result = cross_entropy(add_bias(matmul(h, b), c2), targets);
    const Tensor dy = cross_entropy_backward(result, targets, x.rows());  // (N, out)
    const Tensor dz = gelu_backward(matmul(dy, t(b)), z);                 // (N, hidden)
    return {matmul(dz, t(a)), matmul(t(x), dz), sum_rows(dz), matmul(t(h), dy), sum_rows(dy)};
  }
};

}  // namespace

TEST_CASE("gradients against central differences: each function") {
  on_every_device([] {
    for (const bool view : {false, true}) {
      CAPTURE(view);
      const Case c{DType::f64, view};
      const Operand x(uniform("x", 4, 5), c), a(uniform("a", 5, 3), c), row(uniform("c", 1, 5), c);
      const Operand dy(uniform("dy", 4, 3), c), dx(uniform("dx", 4, 5), c);
      const auto product = [&] { return weighted(matmul(x, a), dy); };
      CHECK(wrong_gradient(matmul(dy, t(a)), x, product) == "");
      CHECK(wrong_gradient(matmul(t(x), dy), a, product) == "");
      CHECK(wrong_gradient(sum_rows(dx), row, [&] { return weighted(add_bias(x, row), dx); }) == "");
      CHECK(wrong_gradient(scale(dx, -0.7), x, [&] { return weighted(scale(x, -0.7), dx); }) == "");
      CHECK(wrong_gradient(dx, x, [&] { return weighted(add(x, x), dx) / 2; }) == "");

      Matrix wide = uniform("wide", 4, 5, 4);
      for (double& value : wide.data) value += value < 0 ? -0.1 : 0.1;  // away from the kink of relu
      const Operand z(wide, c);
      CHECK(wrong_gradient(gelu_backward(dx, z), z, [&] { return weighted(gelu(z), dx); }) == "");
      CHECK(wrong_gradient(relu_backward(dx, z), z, [&] { return weighted(relu(z), dx); }) == "");

      const Operand gamma(uniform("gamma", 1, 5), c), beta(uniform("beta", 1, 5), c);
      const Tensor dgamma = Tensor::zeros(1, 5, DType::f64), dbeta = Tensor::zeros(1, 5, DType::f64);
      const LayerNorm norm = layer_norm(z, gamma, beta, 0.1);
      const auto normed = [&] { return weighted(layer_norm(z, gamma, beta, 0.1).y, dx); };
      add_layer_norm_weights(dgamma, dbeta, dx, norm);
      CHECK(wrong_gradient(layer_norm_backward(dx, norm, gamma), z, normed) == "");
      CHECK(wrong_gradient(dgamma, gamma, normed) == "");
      CHECK(wrong_gradient(dbeta, beta, normed) == "");
      CHECK(wrong_gradient(softmax_backward(dx, softmax(z)), z, [&] { return weighted(softmax(z), dx); }) ==
            "");
      CHECK(wrong_gradient(dropout(dx, 0.4, 3), z, [&] { return weighted(dropout(z, 0.4, 3), dx); }) == "");

      const Tensor ids = ids_of({2, 0, 2, -1});
      const Tensor dtable = Tensor::zeros(3, 5, DType::f64);
      const Operand table(uniform("table", 3, 5), c);
      add_embedding_backward(dtable, dx, ids);
      CHECK(wrong_gradient(dtable, table, [&] { return weighted(embedding(ids, table), dx); }) == "");

      const Operand factors(uniform("factors", 4, 1), c);
      const auto scaled = [&] { return weighted(scale_rows(z, factors), dx); };
      CHECK(wrong_gradient(scale_rows(dx, factors), z, scaled) == "");
      CHECK(wrong_gradient(row_dots(dx, z), factors, scaled) == "");

      const Tensor targets = ids_of({4, 0, 2, 2});
      const Tensor each = tensor_of(filled(4, 1, 1.0 / 11));  // 11 tokens, 7 of them elsewhere
      CHECK(wrong_gradient(cross_entropy_backward(cross_entropy(z, targets), targets, 11), z,
                           [&] { return weighted(cross_entropy(z, targets).loss, each); }) == "");
    }
  });
}

TEST_CASE("gradients against central differences: a whole network") {
  on_every_device([] {
    const Network network(DType::f64);
    const auto loss = [&] { return network.loss(); };
    const Network::Gradients d = network.gradients();
    CHECK(wrong_gradient(d.x, network.x, loss) == "");
    CHECK(wrong_gradient(d.a, network.a, loss) == "");
    CHECK(wrong_gradient(d.c1, network.c1, loss) == "");
    CHECK(wrong_gradient(d.b, network.b, loss) == "");
    CHECK(wrong_gradient(d.c2, network.c2, loss) == "");
  });
}

TEST_CASE("a training step in steady state asks the system for no memory") {
  on_every_device([] {
    for (const DType dtype : {DType::f32, DType::f64}) {
      const Network network(dtype, 33, 20, 41, 10);
      const std::vector<Tensor> weights{network.a, network.c1, network.b, network.c2};
      std::vector<Tensor> velocities;
      for (const Tensor& w : weights) velocities.push_back(Tensor::zeros(w.rows(), w.cols(), dtype));
      const double before = network.loss();
      std::vector<std::int64_t> asked, held;
      for (int step = 0; step < 5; ++step) {
        const Network::Gradients d = network.gradients();
        const std::vector<Tensor> gradients{d.a, d.c1, d.b, d.c2};
        for (std::size_t i = 0; i < weights.size(); ++i)
          sgd(weights[i], velocities[i], gradients[i], 0.1, 0.9);
        asked.push_back(Device::current()->system_allocations());
        held.push_back(Device::current()->memory.now());
      }
      CHECK(asked[4] == asked[1]);
      CHECK(held[4] == held[0]);
      CHECK(network.loss() < before);
    }
  });
}
