// The gradients of a network against central differences in f64, and what a training step promises beside its
// values. Those of each function stand in test_ops.cpp, and in test_fixtures.cpp against PyTorch.
#include <numeric>

#include "01_mlp/mlp.hpp"
#include "reference.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// The model of lesson 01 with a loss: the smallest program that uses most functions.
struct Network {
  Tensor x, targets;
  mlp::Mlp model;
  std::vector<Tensor> weights{model.a, model.c1, model.b, model.c2};
  std::vector<Tensor> gradients{model.da, model.dc1, model.db, model.dc2};

  Network(DType dtype, Index n, Index in, Index hidden, Index out)
      : x(tensor_of(uniform("X", n, in), dtype)),
        model{tensor_of(uniform("A", in, hidden), dtype), tensor_of(uniform("c1", 1, hidden), dtype),
              tensor_of(uniform("B", hidden, out), dtype), tensor_of(uniform("c2", 1, out), dtype)} {
    std::vector<double> ids;
    for (Index i = 0; i < n; ++i) ids.push_back(static_cast<double>((i * i + 1) % out));
    targets = ids_of(ids);
  }
  double loss() const {
    mlp::Mlp::Saved saved;
    const auto losses = cross_entropy(model.forward(x, saved), targets).loss.values();
    return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(x.rows());
  }
  /// Fills `gradients`. Returns that of x.
  Tensor backward() const {
    mlp::Mlp::Saved saved;
    const CrossEntropy result = cross_entropy(model.forward(x, saved), targets);
    const Tensor dx = model.backward_input(cross_entropy_backward(result, targets, x.rows()), saved);
    for (const Tensor& gradient : gradients) gradient.zero();
    model.backward_weight(saved);
    return dx;
  }
};

}  // namespace

TEST_CASE("gradients against central differences: a whole network") {
  on_every_device([] {
    const Network network(DType::f64, 7, 5, 9, 4);
    const auto loss = [&] { return network.loss(); };
    CHECK(wrong_gradient(network.backward(), network.x, loss) == "");
    for (std::size_t i = 0; i < network.weights.size(); ++i)
      CHECK(wrong_gradient(network.gradients[i], network.weights[i], loss) == "");
  });
}

TEST_CASE("a training step in steady state asks the system for no memory") {
  on_every_device([] {
    for (const DType dtype : {DType::f32, DType::f64}) {
      const Network network(dtype, 33, 20, 41, 10);
      std::vector<Tensor> velocities;
      for (const Tensor& w : network.weights) velocities.push_back(Tensor::zeros(w.rows(), w.cols(), dtype));
      const double before = network.loss();
      check_steady_state([&] {
        network.backward();
        for (std::size_t i = 0; i < velocities.size(); ++i)
          sgd(network.weights[i], velocities[i], network.gradients[i], 0.1, 0.9);
      });
      CHECK(network.loss() < before);
    }
  });
}

TEST_CASE("one thread and two give the same bits, in everything but products") {
  const Device::Scope scope(Device::make(DeviceKind::cpu));
  const Index rows = 301, cols = 257;  // above the size where threads start
  for (const DType dtype : {DType::f32, DType::f64}) {
    const auto make = [&](const char* name) { return tensor_of(uniform(name, rows, cols, 3), dtype); };
    std::vector<double> ids;
    for (Index i = 0; i < rows; ++i) ids.push_back(static_cast<double>((i * 31) % cols));
    const Tensor x = make("x"), y = make("y"), row = tensor_of(uniform("c", 1, cols), dtype);
    const Tensor targets = ids_of(ids);
    const auto all = [&](int threads) {
      set_math_threads(threads);
      const Tensor sum = make("sum"), total = row.copy(), dtable = make("table");
      const Tensor w = make("w"), v = make("v"), w2 = make("w"), m = make("m");
      add_to(sum, x);
      add_sum_rows(total, x);
      add_embedding_backward(dtable, y, targets);
      sgd(w, v, y, 0.1, 0.9);
      adamw(w2, m, relu(x), y, {}, 3);
      const CrossEntropy result = cross_entropy(x, targets);
      const LayerNorm norm = layer_norm(x, row, row);
      const Tensor dgamma = row.copy(), dbeta = row.copy();
      add_layer_norm_weights(dgamma, dbeta, y, norm);
      std::vector<std::vector<double>> values;
      const auto keep = [&](const auto&... tensors) { (values.push_back(tensors.values()), ...); };
      keep(sum, total, dtable, w, v, w2, m, dgamma, dbeta);
      keep(add(x, y), scale(x, 0.3), add_bias(x, row), sum_rows(x), cast(x, DType::f32), cast(x, DType::f64));
      keep(gelu(x), gelu_backward(y, x), relu(x), relu_backward(y, x), dropout(x, 0.3, 1),
           embedding(targets, y));
      keep(norm.y, norm.mean, norm.inverse_deviation, layer_norm_backward(y, norm, row));
      keep(softmax(x), softmax_backward(y, result.probabilities));
      keep(result.loss, result.probabilities, cross_entropy_backward(result, targets, rows));
      set_math_threads(1);
      return values;
    };
    const auto single = all(1), two = all(2);
    for (std::size_t i = 0; i < single.size(); ++i) {
      CAPTURE(i);
      CHECK(single[i] == two[i]);
    }
  }
}
