// This file stands in the place of nccl.cpp in a build without CUDA or NCCL.
#include "comm/launch.hpp"
#include "tensor/error.hpp"

namespace tessera::nccl {

bool built() { return false; }
std::string version() { return "none"; }
void prepare() {}
void launch(const LaunchOptions&, const std::function<void(Communicator&)>&) {
  throw UsageError("this build has no NCCL: it needs the CUDA toolkit and libnccl-dev");
}

}  // namespace tessera::nccl
