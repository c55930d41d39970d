// This file takes the place of cuda.cu in a build without CUDA.
#include "ops/kernels.hpp"
#include "tensor/error.hpp"

namespace tessera {

const Kernels& cuda_kernels() { throw Error("this build has no CUDA"); }

}  // namespace tessera
