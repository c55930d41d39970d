// This file stands in the place of mpi.cpp in a build without MPI.
#include "comm/launch.hpp"
#include "tensor/error.hpp"

namespace tessera::mpi {

bool built() { return false; }
int launched_size() { return 0; }
int launched_rank() { return 0; }
int local_rank() { return 0; }

namespace {
[[noreturn]] void refuse() {
  throw UsageError("this build has no MPI: apt-get install libopenmpi-dev openmpi-bin, then build again");
}
}  // namespace

void expect_processes(int, std::chrono::duration<double>) { refuse(); }
void broadcast_bytes(void*, int, int) { refuse(); }
void send_message(const std::string&, int) { refuse(); }
std::optional<std::string> receive_message() { refuse(); }
void launch(const LaunchOptions&, const std::function<void(Communicator&)>&) { refuse(); }

}  // namespace tessera::mpi
