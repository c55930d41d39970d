// Matrices that lie in parts on the ranks come together on rank 0, for checks and for files.
#pragma once

#include <vector>

#include "comm/communicator.hpp"
#include "report/check.hpp"

namespace tessera {

/// Rank 0 gets the part of a matrix that each rank holds, from any device; the other ranks get nothing.
/// Collective. Its memory and its calls are booked as checks.
std::vector<RankResult> gather_parts(Communicator& comm, const Slice& slice, const Tensor& local);

}  // namespace tessera
