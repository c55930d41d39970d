// This file takes the place of cuda.cu and attention_cuda.cu in a build without CUDA.
#include "ops/attention_functions.hpp"
#include "tensor/error.hpp"

namespace tessera {

const Kernels& cuda_kernels() { throw Error("this build has no CUDA"); }
void fused_attention(const AttentionSaved&, const AttentionTile&) { cuda_kernels(); }
void fused_attention_backward(const Tensor&, const AttentionSaved&, const AttentionTile&, const Tensor&,
                              const Tensor&, const Tensor&) {
  cuda_kernels();
}

}  // namespace tessera
