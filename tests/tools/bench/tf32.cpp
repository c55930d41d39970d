#include <cublas_v2.h>

#include "bench.hpp"
#include "tensor/device_cuda.hpp"

namespace tessera::bench {

void allow_tf32(Device& device) {
  if (device.kind() == DeviceKind::cuda)
    CUBLAS_CHECK(cublasSetMathMode(static_cast<CudaDevice&>(device).blas(), CUBLAS_TF32_TENSOR_OP_MATH));
}

}  // namespace tessera::bench
