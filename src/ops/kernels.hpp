// What a back end must compute. ops.cpp checks every shape, dtype and device, and makes the outputs, before
// it calls one of these functions. Every matrix may be a view with its own leading dimension.
#pragma once

#include <vector>

#include "tensor/random.hpp"
#include "tensor/tensor.hpp"

namespace tessera {

enum class Reduce { sum, max };
/// Which keys a query sees. causal: those up to the query itself; none: all; padding: those before the end of
/// its sequence.
enum class Mask { causal, none, padding };

struct AdamW {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, decay = 0.01;
};

/// The place of a local matrix in the whole. Where its rows belong to heads of sequences, its row
/// (b heads + h) seq + i is row (b all_heads + first_head + h) seq + i of the whole. By default the local
/// matrix is the whole.
struct Position {
  std::int64_t first_row = 0, first_col = 0;
  std::int64_t cols = 0;  // the columns of the whole; 0 stands for those of the local matrix
  std::int64_t seq = 1, heads = 1, all_heads = 1, first_head = 0;
};

/// The factor of each element, 0 or 1 / (1 - rate). It depends on the element's place in the whole.
struct Dropout {
  Position where;  // its cols must be given
  Random random{0, "dropout"};
  std::uint32_t threshold = 0;  // 0: nothing is dropped
  double scale = 1;
  Dropout() = default;
  Dropout(double rate, std::uint64_t seed, const Position& position)
      : where(position),
        random(seed, "dropout"),
        threshold(static_cast<std::uint32_t>(rate * 0x1p32)),
        scale(1 / (1 - rate)) {}
  /// The index in the whole of the first element of a local row.
  TESSERA_BOTH std::uint64_t index(std::int64_t row) const {
    const std::int64_t head = row / where.seq, b = head / where.heads, h = head % where.heads;
    row = where.first_row + (b * where.all_heads + where.first_head + h) * where.seq + row % where.seq;
    return static_cast<std::uint64_t>(row * where.cols + where.first_col);
  }
  template <class T>
  TESSERA_BOTH T factor(std::uint64_t first, std::int64_t j) const {
    return random.bits(first + static_cast<std::uint64_t>(j)) < threshold ? T(0) : T(scale);
  }
};

/// Matrices inside one tensor, for gemm. The matrix of the pair (o, n) begins at element first + o outer + n
/// inner, and has the leading dimension of the tensor.
struct Stack {
  Tensor of;
  std::int64_t rows, cols, first = 0, outer = 0, inner = 0;
};

/// A tile of the scores of attention: queries [first_query, seq) of all heads by keys [first_key, first_key +
/// keys).
struct AttentionTile {
  Mask mask = Mask::causal;
  std::int64_t seq = 1, heads = 1, first_query = 0, first_key = 0, keys = 1;
  const std::int32_t* lengths = nullptr;  // for Mask::padding
  double scale = 1;                       // the factor of the scores, 1 / sqrt(d)
  Dropout dropout;
};

/// One rank's part of a cross-entropy whose logits z are cut by columns; the rank has (N, vocab_r) of them.
struct CrossEntropyTerms {
  Tensor exponentials;  // (N, vocab_r)  exp(z - largest)
  Tensor sum, target;   // (N, 1)  their sum; z_target - largest, 0 where another rank has the target
};

struct Kernels {
  virtual ~Kernels() = default;

  /// c = beta c + op(a) op(b) for each pair of [0, outer) x [0, inner); op(a) = a^T where transpose_a. With
  /// operands in bf16, c may be in bf16 or in f32.
  virtual void gemm(const Stack& c, double beta, const Stack& a, bool transpose_a, const Stack& b,
                    bool transpose_b, std::int64_t outer = 1, std::int64_t inner = 1) const = 0;
  virtual void add(const Tensor& y, const Tensor& a, const Tensor& b) const = 0;  // y = a + b; y may be a
  virtual void scale(const Tensor& y, const Tensor& x, double factor) const = 0;  // y = factor x
  virtual void add_bias(const Tensor& y, const Tensor& x, const Tensor& c) const = 0;  // y_ij = x_ij + c_j
  /// out_j = beta out_j + sum_i x_ij
  virtual void sum_rows(const Tensor& out, double beta, const Tensor& x) const = 0;
  virtual void gelu(const Tensor& y, const Tensor& x) const = 0;
  virtual void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const = 0;
  virtual void relu(const Tensor& y, const Tensor& x) const = 0;
  virtual void relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const = 0;
  virtual void cast(const Tensor& y, const Tensor& x) const = 0;  // between f32, f64 and bf16
  virtual void dropout(const Tensor& y, const Tensor& x, const Dropout& dropout) const = 0;  // y may be x
  /// y_i = table[ids_i]; an id outside the table gives a row of zeros.
  virtual void embedding(const Tensor& y, const Tensor& ids, const Tensor& table) const = 0;
  /// dtable[v] += sum of dy_i over the i with ids_i = v, in the order of i.
  virtual void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) const = 0;
  virtual void scale_rows(const Tensor& y, const Tensor& x, const Tensor& factors) const = 0;
  virtual void row_dots(const Tensor& dots, const Tensor& a, const Tensor& b) const = 0;
  virtual void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& inverse_deviation,
                          const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) const = 0;
  virtual void layer_norm_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& mean,
                                   const Tensor& inverse_deviation, const Tensor& gamma) const = 0;
  /// dgamma_j += sum_i dy_ij (x_ij - mean_i) inverse_deviation_i
  virtual void layer_norm_gamma(const Tensor& dgamma, const Tensor& dy, const Tensor& x, const Tensor& mean,
                                const Tensor& inverse_deviation) const = 0;
  /// p = softmax(scale x) over the keys that each row sees, 0 elsewhere. The tile must hold all keys; p may
  /// be x.
  virtual void softmax(const Tensor& p, const Tensor& x, const AttentionTile& tile) const = 0;
  /// Changes o, and writes `merged` for log_sum: see MergeRow in attention_functions.hpp.
  virtual void merge_attention(const Tensor& o, const Tensor& more, const Tensor& log_sum,
                               const Tensor& more_log_sum, const Tensor& merged,
                               const AttentionTile& tile) const = 0;
  /// dx = factor p (dp - sum_k dp_k p_k), row by row; dx may be dp.
  virtual void softmax_backward(const Tensor& dx, const Tensor& dp, const Tensor& p, double factor) const = 0;
  /// probabilities = softmax of each row, loss_i = -log probabilities[i, target_i].
  virtual void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                             const Tensor& targets) const = 0;
  virtual void row_largest(const Tensor& largest, const Tensor& x) const = 0;
  virtual void cross_entropy_terms(const CrossEntropyTerms& terms, const Tensor& logits,
                                   const Tensor& largest, const Tensor& targets) const = 0;
  /// Divides the exponentials by the sums.
  virtual void cross_entropy_of(const Tensor& loss, const CrossEntropyTerms& terms) const = 0;
  /// dlogits = (probabilities - onehot(targets)) factor; dlogits may be probabilities.
  virtual void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities,
                                      const Tensor& targets, double factor) const = 0;
  virtual void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr,
                   double momentum) const = 0;
  virtual void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, const AdamW& options,
                     std::int64_t step) const = 0;
  /// The sum of the squares of all elements of all parts, which are contiguous.
  virtual double sum_of_squares(const std::vector<Tensor>& parts) const = 0;
  /// out = inputs[0] (+) inputs[1] (+) ..., in that order, so that the bits do not depend on timing. The
  /// inputs may lie in the memory of other ranks, and out may be one of them. All are contiguous, of any
  /// dtype; sums of bf16 are rounded once. Where an input is NaN the result is NaN, under max as well.
  virtual void reduce(const Tensor& out, const std::vector<Tensor>& inputs, Reduce how) const = 0;
};

const Kernels& cpu_kernels();
const Kernels& cuda_kernels();  ///< Throws UsageError in a build without CUDA.
const Kernels& kernels_of(const Tensor& tensor);

/// Sets the number of threads for the mathematics of one rank on the CPU. One rank uses all cores; of several
/// ranks each uses one thread.
void set_math_threads(int threads);
/// How many threads a rank of this process should take: its share of OMP_NUM_THREADS where the user has set
/// it, at least 1; else `otherwise`.
int math_threads_or(int otherwise, int ranks_of_process);
/// OpenMP's threads spin while they wait for each other. On a busy machine they thereby take the core from
/// the thread that they wait for. libgomp reads OMP_WAIT_POLICY only when a program is loaded, so this starts
/// the program again with OMP_WAIT_POLICY=passive and a short spin, unless the user has set that variable or
/// GOMP_SPINCOUNT. It must be called before anything else is done.
void wait_passively();
std::string blas_name();  ///< "OpenBLAS 0.3.21 (openmp)", or "plain loops"

}  // namespace tessera
