// This file stands in the place of device_cuda.cu in a build without CUDA.
#include "tensor/device.hpp"
#include "tensor/error.hpp"

namespace tessera {

int cuda_device_count() { return 0; }
std::string why_no_gpu() { return "no GPU found"; }
std::string cuda_bus_id(int) { return ""; }
bool built_with_cuda() { return false; }
std::shared_ptr<Device> make_cuda_device(int) {
  throw UsageError("this build has no CUDA: install the CUDA toolkit and build again, or use --device cpu");
}

}  // namespace tessera
