// The MLP block of lesson 04 over its six bare products: by one rank, and by two with a core each.
#include "04_mlp_block/mlp_block.hpp"
#include "bench.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

namespace {

/// Forward and backward of the block over tp's ranks, and as `b` the products that each rank does of it.
Turns block_turns(Communicator& comm, const Options& o) {
  const std::int64_t n = o.size(1024, 8192, 64), k = o.size(1024, 4096, 64), f = o.size(4096, 16384, 128);
  const TensorParallel tp(comm);
  const std::int64_t own = f / comm.size();  // columns of A, rows of B
  const mlp_block::ParallelMlp block{{numbers(k, own, 0.05), numbers(1, own)},
                                     {numbers(own, k, 0.05), numbers(1, k)}};
  const Placed<Replicated> x(numbers(n, k)), dy(numbers(n, k));
  Products products;
  products.linear(n, k, own), products.linear(n, own, k);
  if (o.tf32) allow_tf32(*Device::current());
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
          "tp.efficiency_2", turns.b_over_a(), Target{Target::at_least, 0.93},
          format("two ranks' step of the block, and their halves of the products: {}", turns.both()));
  });
}

}  // namespace tessera::bench
