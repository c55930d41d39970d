// Rank 0 gathers matrices whose parts lie on the ranks, for checks and for files.
#pragma once

#include <vector>

#include "comm/communicator.hpp"
#include "report/check.hpp"

namespace tessera {

/// While it lives, the memory and the calls of this rank count as checks, and stay out of all tables.
struct CheckScope {
  explicit CheckScope(Communicator& comm) : memory(MemoryKind::check), phase(comm.journal(), "check") {}
  MemoryScope memory;
  Phase phase;
};

/// Collective. The sum of what the ranks of `group` give, on every rank; its call counts as a check.
double sum_over(Communicator& group, double mine);

/// Collective. Rank 0 gets the part of a matrix that each rank holds, from any device; the other ranks get
/// nothing. Its memory and its calls count as checks.
std::vector<RankResult> gather_parts(Communicator& comm, const Slice& slice, const Tensor& local);

}  // namespace tessera
