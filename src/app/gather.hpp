// Rank 0 gathers matrices whose parts lie on the ranks, for checks and for files.
#pragma once

#include <vector>

#include "comm/communicator.hpp"

namespace tessera {

/// While it lives, the memory and the calls of this rank count as checks, and stay out of all tables.
struct CheckScope {
  explicit CheckScope(Communicator& comm) : memory(MemoryKind::check), phase(comm.journal(), "check") {}
  MemoryScope memory;
  Phase phase;
};

/// Runs `body` as a phase of the journal.
template <class Body>
void in_phase(Communicator& comm, const std::string& name, const Body& body) {
  const Phase phase = comm.phase(name);
  body();
}

/// Collective. The sum of what the ranks of `group` give, or all of it by rank, on every rank; its call
/// counts as a check.
double sum_over(Communicator& group, double mine);
std::vector<double> gather_over(Communicator& group, double mine);

/// What a rank holds of a matrix.
struct Held {
  Slice slice;
  Tensor local;
};

/// Collective. Rank 0 gets what each rank holds of several matrices, by matrix and then by rank, on the host;
/// the other ranks get nothing. Its memory and its calls count as checks.
std::vector<std::vector<Held>> gather_held(Communicator& comm, const std::vector<Held>& mine);

/// Gives the system back the host's memory that this thread's device and Device::host() keep for later.
void trim_memory();

}  // namespace tessera
