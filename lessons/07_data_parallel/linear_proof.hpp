// The identity of lesson 07 by itself, on one linear layer.
#pragma once

#include "07_data_parallel/data_parallel.hpp"
#include "app/proof.hpp"
#include "tensor/error.hpp"

namespace tessera::data_parallel {

/// The gradient if each rank took the mean over its own rows, and then the ranks the mean of these.
inline Tensor mean_of_means(const Inputs<Tensor>& in, const std::string& name, int p, std::int64_t seq) {
  const Tensor x = in("X"), dy = in("dY");
  Tensor sum;
  for (int r = 0; r < p; ++r) {
    const Range own = own_rows(x.rows(), r, p, seq);
    const Tensor rows = dy.row_range(own.begin, own.end);
    const Tensor term = name == "dc" ? sum_rows(rows) : matmul(t(x.row_range(own.begin, own.end)), rows);
    const Tensor mean = scale(term, static_cast<double>(x.rows()) / static_cast<double>(own.size() * p));
    sum = r == 0 ? mean : add(sum, mean);
  }
  return sum;
}

/// One linear layer, its n rows cut between sequences: the identity by itself.
inline void prove_linear(Proof& proof, Communicator& comm, std::int64_t n, std::int64_t seq, std::int64_t k,
                         std::int64_t f) {
  const Range own = own_rows(n, comm.rank(), comm.size(), seq);
  const auto rows = [&](std::int64_t cols) { return Slice{n, cols, {own}, {{0, cols}}}; };
  const Slice a_slice = Slice::whole(k, f), c_slice = Slice::whole(1, f);
  const MemoryScope beside(MemoryKind::check);  // the memory shown is the model's
  const auto input = [&](const char* name, const char* axes, const Slice& slice) {
    return proof.input(name, axes, slice, 1, MemoryKind::check);
  };
  const Rows x(input("X", "NK", rows(k))), dy(input("dY", "NF", rows(f)));
  const Linear layer{Placed<Replicated>(input("A", "KF", a_slice)),
                     Placed<Replicated>(input("c", "1F", c_slice))};
  const Rows y = layer.forward(x), dx = layer.backward_input(dy);
  std::pair<Placed<Replicated>, Placed<Replicated>> gradients;
  {
    const auto phase = comm.phase("linear");
    layer.backward_weight(x, dy);
    gradients = layer.finish(DataParallel(comm));
  }
  proof.result("Y", "NF", "[X1; X2] A + c = [X1 A + c; X2 A + c]", y.local(), rows(f));
  proof.result("dX", "NK", "dX = [dY1 A'; dY2 A']", dx.local(), rows(k));
  proof.result("dA", "KF", "dA = X1' dY1 + X2' dY2", gradients.first.local(), a_slice);
  proof.result("dc", "1F", "dc = sum dY1 + sum dY2", gradients.second.local(), c_slice);
  const std::int64_t p = comm.size(), e = proof.element_bytes();
  proof.expect_traffic("linear", "all_reduce", "dA, dc", 2, 2 * (p - 1) * (k + 1) * f * e,
                       format("2 (p-1) {} (K + 1) F", e));
  for (const char* result : {"dA", "dc"})
    proof.mistake(
        result, format("{} is the mean of the ranks' means: a rank with fewer rows counted as much.", result),
        [=, name = std::string(result)](const auto& in, int) {
          return mean_of_means(in, name, static_cast<int>(p), seq);
        });
}

}  // namespace tessera::data_parallel
