// What functions without products achieve of the bandwidth that a copy has.
#include <tuple>

#include "bench.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

void bandwidth(Report& report, const Options& o) {
  launch(o.ranks(1), [&](Communicator& comm) {
    const std::int64_t bytes = o.quick ? 1 << 16 : std::int64_t{256} << 20, cols = 1024,
                       rows = bytes / 4 / cols;
    const Tensor x = numbers(rows, cols), y = numbers(rows, cols), z = numbers(rows, cols);
    const Tensor gradient = numbers(rows, cols), row = numbers(1, cols), column = numbers(rows, 1),
                 other = numbers(rows, 1);
    const Tensor square = Tensor::zeros(rows, cols, DType::f32), ids = Tensor::zeros(rows, 1, DType::i32);
    const Kernels& kernels = kernels_of(x);
    const AttentionTile all{.mask = Mask::none, .keys = cols};
    // Tensors that each reads and writes; a copy reads one and writes one.
    const std::vector<std::tuple<const char*, double, Job>> functions = {
        {"gelu", 2, [&] { kernels.gelu(y, x); }},
        {"gelu_backward", 3, [&] { kernels.gelu_backward(z, y, x); }},
        {"layer_norm", 2, [&] { kernels.layer_norm(y, column, other, x, row, row, 1e-5); }},
        {"softmax", 2, [&] { kernels.softmax(y, x, all); }},
        {"cross_entropy", 2, [&] { kernels.cross_entropy(column, y, x, ids); }},
        {"adamw", 7, [&] { kernels.adamw(x, y, square, gradient, {}, 1); }}};
    for (const auto& [name, tensors, job] : functions) {
      const Turns turns = in_turns(comm, o.turns, job, [&] { gradient.copy_from(x); });
      std::vector<double> fractions = turns.b_over_a();
      for (double& fraction : fractions) fraction *= tensors / 2;
      report.ratio(std::string("bandwidth.") + name, fractions,
                   o.cuda() ? std::optional(Target{Target::at_least, 0.8}) : std::nullopt,
                   format("its bytes a second over those of a copy, tensors of {} B", bytes));
    }
  });
}

}  // namespace tessera::bench
