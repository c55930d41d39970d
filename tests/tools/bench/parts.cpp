// The parts of a step: the MLP block of lesson 04 over its six bare products, by one rank and by two with a
// core each; the all-reduce of two ranks against what their cores can read and write, and beside Open MPI's;
// and what functions without products achieve of the bandwidth that a copy has.
#include <array>
#include <cstdio>
#include <tuple>

#include "04_mlp_block/mlp_block.hpp"
#include "bench.hpp"
#include "messages.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

namespace {

/// Forward and backward of the block over tp's ranks, and as `b` the products that each rank does of it.
Turns block_turns(Communicator& comm, const Options& o) {
  const std::int64_t n = o.size(1024, 8192, 64), k = o.size(1024, 4096, 64), f = o.size(4096, 16384, 128);
  const TensorParallel tp(comm);
  const std::int64_t own = f / comm.size();  // columns of A, rows of B
  const auto made = [&](std::int64_t rows, std::int64_t cols, double scale) {
    return numbers(rows, cols, scale, o.dtype());
  };
  const mlp_block::ParallelMlp block{{made(k, own, 0.05), made(1, own, 1)},
                                     {made(own, k, 0.05), made(1, k, 1)}};
  const Placed<Replicated> x(made(n, k, 1)), dy(made(n, k, 1));
  Products products(o.dtype());
  products.linear(n, k, own), products.linear(n, own, k);
  Device::current()->tf32 = o.tf32;
  return in_turns(
      comm, o.turns,
      [&] {
        mlp_block::ParallelMlp::Saved saved;
        block.forward(x, saved, tp);
        block.backward_input(dy, saved, tp);
        block.backward_weight(saved);
      },
      [&] { products.run(); });
}

/// What mpirun's two processes print (mpi_all_reduce.cpp): seconds of an all-reduce, large and small.
std::optional<std::array<double, 2>> open_mpi(std::int64_t large, std::int64_t small) {
  const auto ran = test::run_command(
      format("{} {} {} {} 2>/dev/null", TESSERA_TWO_PROCESSES, TESSERA_MPI_ALL_REDUCE, large, small));
  std::array<double, 2> found{};
  if (ran.exit != 0 || std::sscanf(ran.output.c_str(), "%lf %lf", &found[0], &found[1]) != 2) return {};
  return found;
}

std::string us(double seconds) { return number(1e6 * seconds) + " us"; }

}  // namespace

void mlp_block(Report& report, const Options& o) {
  launch(o.ranks(1), [&](Communicator& comm) {
    const Turns turns = block_turns(comm, o);
    report.ratio(
        "mlp_block.step_over_gemm", turns.a_over_b(), Target{Target::at_most, 1.10},
        format("forward and backward of the MLP block over its six bare products, {}", turns.both()));
  });
}

void tensor_parallel(Report& report, const Options& o) {
  launch(o.ranks(2), [&](Communicator& comm) {
    const Turns turns = block_turns(comm, o);
    if (comm.rank() == 0)
      report.ratio(
          "tp.efficiency_2", turns.b_over_a(), Target{Target::at_least, 0.96},
          format("two ranks' step of the block, and their halves of the products: {}", turns.both()));
  });
}

void all_reduce(Report& report, const Options& o) {
  const std::int64_t large = o.quick ? 1 << 16 : std::int64_t{64} << 20, small = 4096;
  launch(o.ranks(2), [&](Communicator& comm) {
    const Tensor x = numbers(1, large / 4), y = numbers(1, large / 4), few = numbers(1, small / 4);
    // The bytes that a rank of an all-reduce reads and writes: it adds two halves and copies a third one.
    const std::int64_t half = x.size() / 2;
    const Tensor sum = y.column_range(0, half), rest = y.column_range(half, 2 * half);
    const Turns turns = in_turns(
        comm, o.turns, [&] { comm.all_reduce(x); },
        [&] {
          kernels_of(x).add(sum, x.column_range(0, half), x.column_range(half, 2 * half));
          rest.copy_from(x.column_range(0, half));
        });
    const int calls = o.quick ? 10 : 1000;  // one is over too soon to be measured
    const Turns small_turns = in_turns(
        comm, o.turns,
        [&] {
          for (int i = 0; i < calls; ++i) comm.all_reduce(few);
        },
        [] {});
    if (comm.rank() != 0) return;
    std::vector<double> latency = small_turns.a;
    for (double& seconds : latency) seconds *= 1e6 / calls;
    report.ratio("all_reduce.fraction_of_limit", turns.b_over_a(), Target{Target::at_least, 0.7},
                 format("two ranks' all-reduce of {} B: the time to read and write the same bytes, over the "
                        "time it takes; {}",
                        large, turns.both()));
    report.ratio(
        "all_reduce.latency_us", latency, Target{Target::at_most, 8},
        format("microseconds of an all-reduce of {} B between two ranks as threads, each with a core",
               small));
    const auto mpi = open_mpi(large, small);
    report.table("All-reduce of two ranks, medians",
                 {{"", format("{} B", large), format("{} B", small)},
                  {"threads", us(median(turns.a)), format("{:.3g} us", median(latency))},
                  {"Open MPI", mpi ? us((*mpi)[0]) : "not here", mpi ? us((*mpi)[1]) : ""}});
  });
}

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
