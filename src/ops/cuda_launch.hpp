// What the kernels of cuda.cu and cuda_rows.cu share: views that a kernel can take, and the launch.
#pragma once

#include <algorithm>

#include "tensor/device_cuda.hpp"
#include "tensor/tensor.hpp"

namespace tessera::gpu {

constexpr int block_size = 256;  // threads

/// A matrix as a kernel sees it. Passed by value, so nothing is copied to the GPU beforehand.
template <class T>
struct View {
  T* data;
  std::int64_t ld;
  explicit View(const Tensor& tensor) : data(tensor.data<std::remove_const_t<T>>()), ld(tensor.ld()) {}
  __device__ T* row(std::int64_t i) const { return data + i * ld; }
};

/// Calls f with a float or a double that tells the type.
template <class F>
void floating(DType dtype, const F& f) {
  if (dtype == DType::f32)
    f(float{});
  else
    f(double{});
}

/// kernel<<<blocks>>>(arguments) on the active stream of the tensor's device. Nothing is launched where
/// there is no work: a grid of 0 blocks is an error in CUDA.
template <class... Parameters, class... Arguments>
void launch(const Tensor& where, std::int64_t blocks, void (*kernel)(Parameters...), Arguments... arguments) {
  if (blocks == 0) return;
  const CudaDevice& device = cuda_device(where.device());
  kernel<<<static_cast<unsigned>(blocks), block_size, 0, device.stream()>>>(Parameters(arguments)...);
  CUDA_CHECK(cudaGetLastError());
}

/// Blocks for n independent elements; beyond 2^16 a thread takes several, a grid apart.
inline std::int64_t blocks_for(std::int64_t n) {
  return std::min<std::int64_t>((n + block_size - 1) / block_size, 65536);
}

/// Calls body(i) for this thread's share of [0, n).
template <class Body>
__device__ void for_each_element(std::int64_t n, const Body& body) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) body(i);
}

// In cuda_rows.cu: what looks at a whole row or column at once.
void sum_rows(const Tensor& out, double beta, const Tensor& x);
void embedding(const Tensor& y, const Tensor& ids, const Tensor& table);
void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids);
void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                   const Tensor& targets);
void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities, const Tensor& targets,
                            double factor);

}  // namespace tessera::gpu
