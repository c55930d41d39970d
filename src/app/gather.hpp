// Rank 0 gathers matrices whose parts lie on the ranks, for checks and for files.
#pragma once

#include <vector>

#include "comm/communicator.hpp"
#include "report/check.hpp"

namespace tessera {

/// Collective. Rank 0 gets the part of a matrix that each rank holds, from any device; the other ranks get
/// nothing. Its memory and its calls count as checks.
std::vector<RankResult> gather_parts(Communicator& comm, const Slice& slice, const Tensor& local);

}  // namespace tessera
