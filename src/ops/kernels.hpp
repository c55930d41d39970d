// What a back end must compute. ops.cpp has checked every shape, dtype and device before it calls one of
// these; outputs exist already. Every matrix may be a view with a leading dimension of its own.
#pragma once

#include <vector>

#include "tensor/tensor.hpp"

namespace tessera {

enum class Reduce { sum, max };

/// Where a local matrix stands in the whole. Its rows may be those of heads of sequences, row
/// (b heads + h) seq + i: then they are rows (b all_heads + first_head + h) seq + i of the whole. By default
/// the local matrix is the whole.
struct Position {
  std::int64_t first_row = 0, first_col = 0;
  std::int64_t cols = 0;  // of the whole; 0: as many as the local matrix has
  std::int64_t seq = 1, heads = 1, all_heads = 1, first_head = 0;
};

struct Kernels {
  virtual ~Kernels() = default;

  /// c = beta c + op(a) op(b), op(a) = a^T where transpose_a. f32, f64.
  virtual void gemm(const Tensor& c, double beta, const Tensor& a, bool transpose_a, const Tensor& b,
                    bool transpose_b) const = 0;
  virtual void add(const Tensor& y, const Tensor& a, const Tensor& b) const = 0;  // y = a + b; y may be a
  virtual void scale(const Tensor& y, const Tensor& x, double factor) const = 0;  // y = factor x
  virtual void add_bias(const Tensor& y, const Tensor& x, const Tensor& c) const = 0;  // y_ij = x_ij + c_j
  virtual void sum_rows(const Tensor& out, double beta,
                        const Tensor& x) const = 0;  // out_j = beta out_j + sum_i x_ij
  virtual void gelu(const Tensor& y, const Tensor& x) const = 0;
  virtual void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const = 0;
  virtual void relu(const Tensor& y, const Tensor& x) const = 0;
  virtual void relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const = 0;
  virtual void cast(const Tensor& y, const Tensor& x) const = 0;  // f32 <-> f64
  /// y_i = table[ids_i]; an id outside the table gives a row of zeros.
  virtual void embedding(const Tensor& y, const Tensor& ids, const Tensor& table) const = 0;
  /// dtable[v] += sum of dy_i over the i with ids_i = v, in the order of i.
  virtual void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) const = 0;
  /// probabilities = softmax of each row, loss_i = -log probabilities[i, target_i].
  virtual void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                             const Tensor& targets) const = 0;
  /// dlogits = (probabilities - onehot(targets)) factor; dlogits may be probabilities.
  virtual void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities,
                                      const Tensor& targets, double factor) const = 0;
  virtual void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr,
                   double momentum) const = 0;
  virtual void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, double lr,
                     double beta1, double beta2, double epsilon, double decay, std::int64_t step) const = 0;
  /// out = inputs[0] (+) inputs[1] (+) ..., in that order, so that the bits do not depend on timing. The
  /// inputs may be other ranks' memory; out may be one of them. Contiguous, f32, f64, i32. A NaN of any input
  /// stays a NaN, under max as well.
  virtual void reduce(const Tensor& out, const std::vector<Tensor>& inputs, Reduce how) const = 0;
};

const Kernels& cpu_kernels();
const Kernels& cuda_kernels();  ///< Throws UsageError in a build without CUDA.
const Kernels& kernels_of(const Tensor& tensor);

/// Threads for one rank's mathematics on the CPU: all cores for one rank, one for each of several.
void set_math_threads(int threads);
std::string blas_name();  ///< "OpenBLAS 0.3.21 (openmp)", or "plain loops"

}  // namespace tessera
