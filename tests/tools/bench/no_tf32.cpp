// In the place of tf32.cpp in a build without CUDA.
#include "bench.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

void allow_tf32(Device&) { throw Error("this build has no CUDA"); }

}  // namespace tessera::bench
