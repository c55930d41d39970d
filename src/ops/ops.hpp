// The mathematics of one rank. Each function checks shapes, dtypes and devices (an Error names both
// operands), counts the memory of its result as this thread's MemoryKind, and runs on the device of its
// inputs. The gradient of a function stands beside it: dy is the gradient of the loss with respect to y.
#pragma once

#include "ops/kernels.hpp"
#include "tensor/tensor.hpp"

namespace tessera {

// Where operands are in bf16, every function computes in f32, and rounds its result once. Results that are
// sums over tokens, as the gradients of weights are, and those with one number a row stay in f32.

/// The product (N, W) (W, F) -> (N, F). One operand may be t(...): matmul(dy, t(a)) is dY A^T.
/// For Y = X A: dX = dY A^T and dA = X^T dY, which is a sum over tokens.
Tensor matmul(const Tensor& a, const Tensor& b);
Tensor matmul(const Transposed& a, const Tensor& b);
Tensor matmul(const Tensor& a, const Transposed& b);
/// sum += a b. The gradients of several microbatches are added up in this way.
void add_matmul(const Tensor& sum, const Tensor& a, const Tensor& b);
void add_matmul(const Tensor& sum, const Transposed& a, const Tensor& b);

/// Adds c (1, F) to every row of x (N, F). The gradients are dx = dy and dc = sum_rows(dy).
Tensor add_bias(const Tensor& x, const Tensor& c);
Tensor sum_rows(const Tensor& x);                       ///< (N, F) -> (1, F)
void add_sum_rows(const Tensor& sum, const Tensor& x);  ///< sum (1, F) += sum_rows(x)

Tensor add(const Tensor& a, const Tensor& b);     ///< The residual add. da = db = dy.
void add_to(const Tensor& sum, const Tensor& x);  ///< sum += x
Tensor scale(const Tensor& x, double factor);
Tensor cast(const Tensor& x, DType dtype);  ///< Between f32, f64 and bf16; x where it has this dtype.

/// The sum of the squares of all elements of all parts, as the norm of a model's gradients needs it, summed
/// in f64. The parts are contiguous, of one dtype and on one device.
double sum_of_squares(const std::vector<Tensor>& parts);

/// gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
/// Hendrycks and Gimpel, "Gaussian Error Linear Units".
Tensor gelu(const Tensor& x);
Tensor gelu_backward(const Tensor& dy, const Tensor& x);
Tensor relu(const Tensor& x);
Tensor relu_backward(const Tensor& dy, const Tensor& x);  ///< 0 where x <= 0.

/// Row ids_i of the table (vocab, F) for each of the ids (N, 1) i32 -> (N, F). An id outside [0, vocab) gives
/// a row of zeros.
Tensor embedding(const Tensor& ids, const Tensor& table);
void add_embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids);

/// y_i = f_i x_i for each row of x (N, F), with factors f (N, 1) in the dtype that x is computed in. The
/// gradients are dx = scale_rows(dy, f) and df = row_dots(dy, x).
Tensor scale_rows(const Tensor& x, const Tensor& factors);
Tensor row_dots(const Tensor& a, const Tensor& b);  ///< sum_j a_ij b_ij: (N, F), (N, F) -> (N, 1)

struct LayerNorm {
  Tensor y;                           // (N, F)
  Tensor x, mean, inverse_deviation;  // (N, F), (N, 1), (N, 1)  what the backward needs
};
/// y = (x - mean) / sqrt(variance + epsilon) gamma + beta, with the mean and the variance (1/F) of each row
/// of x (N, F); gamma and beta are (1, F). Ba, Kiros and Hinton 2016, "Layer Normalization".
LayerNorm layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon = 1e-5);
/// dx (N, F), of which each row needs the same row of dy and x alone. notebooks_md/05_block.md derives the
/// three gradients.
Tensor layer_norm_backward(const Tensor& dy, const LayerNorm& saved, const Tensor& gamma);
/// dgamma (1, F) += the sum over rows of dy (x - mean) inverse_deviation, dbeta (1, F) += sum_rows(dy).
void add_layer_norm_weights(const Tensor& dgamma, const Tensor& dbeta, const Tensor& dy,
                            const LayerNorm& saved);

/// p_ij = exp(x_ij) / sum_k exp(x_ik), (N, F) -> (N, F).
Tensor softmax(const Tensor& x);
/// dx = p (dp - sum_k dp_k p_k), row by row.
Tensor softmax_backward(const Tensor& dp, const Tensor& p);

/// y = x / (1 - rate) where the element is kept, else 0. Philox with `seed`, at the index of the element in
/// the whole, keeps it with probability 1 - rate, so that every cut drops the same elements. dx is the same
/// function of dy. Srivastava et al. 2014, "Dropout", scaled at training.
Tensor dropout(const Tensor& x, double rate, std::uint64_t seed, const Position& where = {});

struct CrossEntropy {
  Tensor loss;           // (N, 1)  -log p(target) of each row, in nats
  Tensor probabilities;  // (N, vocab)  what the backward needs
};
/// Softmax cross-entropy of logits (N, vocab) with targets (N, 1) i32 in [0, vocab); any other target gives a
/// NaN loss.
CrossEntropy cross_entropy(const Tensor& logits, const Tensor& targets);
// The same where each rank has vocab_r of the columns, in three steps; targets count from the rank's first
// column. A target that no rank has is not noticed. After Megatron's vocab_parallel_cross_entropy.
/// Step 1: (N, vocab_r) -> (N, 1), which the caller reduces over the ranks by max.
Tensor row_largest(const Tensor& x);
/// Step 2: the terms, whose `sum` and `target` the caller sums over the ranks.
CrossEntropyTerms cross_entropy_terms(const Tensor& logits, const Tensor& largest, const Tensor& targets);
/// Step 3: the loss (N, 1), and the probabilities (N, vocab_r) of this rank's columns.
CrossEntropy cross_entropy_of(const CrossEntropyTerms& terms);
/// The gradient of (sum of the losses) / tokens, which is (probabilities - onehot) / tokens. `tokens` is the
/// number of tokens of all ranks and microbatches together.
Tensor cross_entropy_backward(const CrossEntropy& saved, const Tensor& targets, std::int64_t tokens);

/// Zeros with the shape of x, f32 for a weight in bf16, to which a layer's backward_weight adds. The ledger
/// counts them as gradients.
Tensor zero_gradient(const Tensor& x);
/// Tensors one behind the other in one contiguous row: any range of them is one message, and all of them are
/// one call of an optimiser. There may be several rows, one after the other, each of which is padded at its
/// end so that `ranks` ranks share it out equally. Rows that are not `held` have no memory before they are
/// restored. Without a row, for a model that does not learn, the tensors are undefined.
class TensorRow {
 public:
  TensorRow() = default;
  explicit TensorRow(const Tensor& all) : rows_{all}, elements_{all.size()} {}
  TensorRow(const std::vector<std::int64_t>& elements, int ranks, DType dtype, MemoryKind kind,
            bool held = true);                                            ///< Zeros.
  const Tensor& all(std::size_t row = 0) const { return rows_.at(row); }  ///< (1, elements and padding)
  /// The elements of each row without its padding.
  const std::vector<std::int64_t>& elements() const { return elements_; }
  Tensor take(const Tensor& like);               ///< The next ones. Throws Error where there is no room left.
  std::size_t row() const { return row_; }       ///< Where the last ones were taken,
  std::int64_t taken() const { return taken_; }  ///< and how many of its elements have been taken.

 private:
  std::vector<Tensor> rows_;
  std::vector<std::int64_t> elements_;
  std::size_t row_ = 0;
  std::int64_t taken_ = 0;  // of this row
};
/// The least multiple of `ranks` that is not less than `elements`.
inline std::int64_t padded(std::int64_t elements, int ranks) {
  return (elements + ranks - 1) / ranks * ranks;
}
/// While it lives, zero_gradient of this thread takes its tensors from here. `dtype` is that of the weights.
class GradientBuffer : public TensorRow {
 public:
  GradientBuffer(std::int64_t elements, DType dtype) : GradientBuffer(std::vector{elements}, 1, dtype) {}
  GradientBuffer(const std::vector<std::int64_t>& elements, int ranks, DType dtype, bool held = true);
  ~GradientBuffer();
  GradientBuffer(const GradientBuffer&) = delete;
  GradientBuffer& operator=(const GradientBuffer&) = delete;

 private:
  GradientBuffer* outer_;
};

/// A weight in bf16 would lose every step below 2^-9 of it. So the optimiser steps a master, cast(w, f32),
/// and stores it: w = master, rounded. Does nothing where a weight is its own master, as in f32 and f64.
/// Micikevicius et al. 2018, "Mixed Precision Training", section 3.1.
void store(const Tensor& w, const Tensor& master);
/// velocity = momentum velocity + g;  w -= lr velocity. Sutskever et al. 2013, in the form that PyTorch uses.
void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr, double momentum);
/// Adam with decoupled weight decay, step = 1, 2, ... Loshchilov and Hutter 2019, algorithm 2.
void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, const AdamW& options,
           std::int64_t step);

}  // namespace tessera
