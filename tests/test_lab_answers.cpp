// What lessons 02, 03, 04 and 07 have for their labs alone, and no lesson's program runs: a student's answer
// is judged by these, and so they are checked by themselves.
#include "04_mlp_block/mlp_block.hpp"
#include "07_data_parallel/data_parallel.hpp"
#include "comm_suite.hpp"
#include "proven.hpp"
#include "tools/labs/relay.hpp"

using namespace tessera;
using namespace tessera::test;

TEST_CASE("labs: the cheapest products are right, and send what the smaller of two matrices takes") {
  for (const auto& [n, k, f, m] : {std::array{5, 7, 24, 9}, {7, 5, 24, 3}, {5, 7, 3, 4}, {7, 5, 3, 2}})
    on_ranks(3, [n = n, k = k, f = f, m = m](Communicator& comm) {
      const auto make = generator(DType::f64, 1, Fill::integer);  // exact in any order
      const Tensor x = make("X", Slice::whole(n, k)), a = make("A", Slice::whole(k, f)),
                   b = make("B", Slice::whole(f, m)), own = comm.take_shard(a, 1);
      const auto sent = [&](const std::string& phase, const std::string& op) {
        return wire_of_group(comm, phase, op);
      };
      {
        const auto phase = comm.phase("02");
        expect_equal(column_split::cheapest(x, own, comm), matmul(x, a));
      }
      expect_eq(sent("02", "all_gather"), 8. * 2 * f * std::min(n, k), "(p-1) F min(N, W) elements");
      const Tensor h = matmul(x, a);  // (N, K), cut by columns, and B by rows; C is whole
      const Tensor c = make("C", Slice::whole(m, k));
      {
        const auto phase = comm.phase("03");
        expect_equal(row_split::cheapest(comm.take_shard(h, 1), comm.take_shard(b, 0), c, comm),
                     matmul(matmul(h, b), c));
      }
      expect_eq(sent("03", "all_reduce"), 8. * 2 * 2 * n * std::min(m, k), "2 (p-1) N min(W, M) elements");
    });
}

TEST_CASE(
    "labs: the lean MLP is the block with relu, and the overlapped backward sums while it computes dX") {
  on_ranks(3, [](Communicator& comm) {
    const TensorParallel tp(comm);
    const auto make = generator(DType::f64);
    const Tensor a = make("A", Slice::columns(4, 6, comm.rank(), 3)),
                 b = make("B", Slice::rows(6, 4, comm.rank(), 3));
    const mlp_block::ParallelMlp block{{a, make("c1", Slice::columns(1, 6, comm.rank(), 3))},
                                       {b, make("c2", Slice::whole(1, 4))},
                                       mlp_block::Activation::relu};
    const mlp_block::LeanMlp lean{block.fc1, block.fc2};
    const Placed<Replicated> x(make("X", Slice::whole(5, 4))), dy(make("dY", Slice::whole(5, 4)));
    mlp_block::LeanMlp::Saved saved;
    const auto whole = step(block, x, dy, tp);
    expect_equal(lean.forward(x, saved, tp).local(), whole.y.local());
    expect_equal(lean.backward_input(dy, saved, tp).local(), whole.dx.local());

    data_parallel::ByHand plain{make("A", Slice::whole(4, 6)), make("c", Slice::whole(1, 6))},
        overlapped = plain;
    const Tensor g = make("G", Slice::whole(5, 6));
    labs::Watched watched(comm, [&] { return overlapped.dx.defined() ? 1 : 0; });
    plain.backward(g, x.local(), comm);
    overlapped.backward_overlapped(g, x.local(), watched);
    expect_equal(overlapped.dx, plain.dx), expect_equal(overlapped.da, plain.da);
    expect_equal(overlapped.dc, plain.dc);
    expect_eq(watched.hidden, 2, "sums under way while dX is computed");
  });
}
