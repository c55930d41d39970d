// Every result of CUDA and cuBLAS is checked here. The error says the place, the call's text and the
// library's own message.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "tensor/error.hpp"

namespace tessera {

/// Throws Error unless the call succeeded. A failure of an earlier kernel may come out of any later call.
#define CUDA_CHECK(call) ::tessera::check_cuda((call), #call)
#define CUBLAS_CHECK(call) ::tessera::check_cublas((call), #call)

inline void check_cuda(cudaError_t result, const char* call, Where where = Where::here()) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // else the next launch check would report it a second time
  throw Error(
      format("{}: {}: {}, {}", place(where), call, cudaGetErrorName(result), cudaGetErrorString(result)));
}

inline void check_cublas(cublasStatus_t result, const char* call, Where where = Where::here()) {
  if (result == CUBLAS_STATUS_SUCCESS) return;
  throw Error(format("{}: {}: {}, {}", place(where), call, cublasGetStatusName(result),
                     cublasGetStatusString(result)));
}

}  // namespace tessera
