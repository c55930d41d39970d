// The mathematics on the CPU: GEMM comes from a BLAS, and everything else is loops over rows.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "ops/blas.hpp"
#include "ops/mathematics.hpp"
#include "ops/ops.hpp"

namespace tessera {

namespace {

thread_local int math_threads = 1;

/// Calls body(i) for i in [0, n), on this rank's threads. Fewer than a few thousand elements are not worth a
/// thread.
template <class Body>
void for_rows(std::int64_t n, std::int64_t work_per_row, const Body& body) {
  [[maybe_unused]] const int threads = n * work_per_row >= 32768 ? math_threads : 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (std::int64_t i = 0; i < n; ++i) body(i);
}

/// A team of one lane (row_functions.hpp). The steps of its loops are independent (simd), and a sum may be
/// folded from several partial sums, as many as a vector of this build holds.
struct OneLane {
  template <class F>
  TESSERA_BOTH void each(std::int64_t n, const F& f) const {
#pragma omp simd
    for (std::int64_t j = 0; j < n; ++j) f(j);
  }
  template <class F>
  TESSERA_BOTH auto sum(std::int64_t n, const F& f) const {
    decltype(f(n)) total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t j = 0; j < n; ++j) total += f(j);
    return total;
  }
  template <class F>
  TESSERA_BOTH auto largest(std::int64_t n, const F& f) const {
    decltype(f(n)) most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (std::int64_t j = 0; j < n; ++j) {
      const auto value = f(j);
      most = most < value ? value : most;
    }
    return most;
  }
  static constexpr bool first() { return true; }
  template <class T>
  static const T* hold(const T* row, std::int64_t) {
    return row;
  }
  template <class T>
  static T* room(T* row) {
    return row;
  }
};

struct Cpu {
  template <class F, class... T>
  static void each(const Tensor& y, const F& f, const View<T>&... x) {
    for_rows(y.rows(), y.cols(), [&](std::int64_t i) {
      [&](T* const... row) {
#pragma omp simd
        for (std::int64_t j = 0; j < y.cols(); ++j) f(row[j]...);
      }(x.row(i)...);
    });
  }

  template <class F>
  static void rows(const Tensor&, std::int64_t n, std::int64_t cols, const F& f) {
    for_rows(n, cols, [&](std::int64_t i) { f(OneLane{}, i); });
  }

  /// Each thread owns columns, so that the sum is always taken in the order of the rows. It takes as many
  /// columns side by side as have their sums in the first-level cache: then memory is read in long stretches.
  template <class T, class F>
  static void columns(const Tensor& out, T beta, std::int64_t n, const F& term) {
    const std::int64_t fair = (out.cols() + math_threads - 1) / math_threads;
    const std::int64_t width = std::clamp<std::int64_t>((fair + 15) / 16 * 16, 16, 2048);
    for_rows((out.cols() + width - 1) / width, width * n, [&](std::int64_t block) {
      const std::int64_t begin = block * width, end = std::min(begin + width, out.cols());
      T* sum = out.data<T>();
      for (std::int64_t j = begin; j < end; ++j) sum[j] = beta == 0 ? T(0) : beta * sum[j];
      for (std::int64_t i = 0; i < n; ++i)
#pragma omp simd
        for (std::int64_t j = begin; j < end; ++j) sum[j] += term(i, j);
    });
  }
};

/// Goes through the rows of all heads that see keys of the tile; y has a row for each query of each head.
template <template <class> class Row, class... Members>
void tile_rows(DType dtype, const Tensor& y, const AttentionTile& tile, const Members&... members) {
  floating(dtype, [&]<class T>(T) {
    Cpu::rows(y, y.rows() / tile.seq * (tile.seq - tile.first_query), tile.keys, Row<T>{tile, members...});
  });
}

/// A matrix of bf16 as f32, without gaps between its rows.
std::vector<float> widened(const Stack& matrix, const bf16* from) {
  std::vector<float> wide;
  wide.reserve(static_cast<std::size_t>(matrix.rows * matrix.cols));
  for (std::int64_t i = 0; i < matrix.rows; ++i, from += matrix.of.ld())
    wide.insert(wide.end(), from, from + matrix.cols);
  return wide;
}

/// op(a) op(b) of bf16 in f32. Where c is stored as bf16, the sums are rounded once, at their end.
void gemm_of_bf16(const Stack& c, std::int64_t c_at, float beta, const Stack& a, const bf16* a_from, bool ta,
                  const Stack& b, const bf16* b_from, bool tb) {
  const auto left = widened(a, a_from), right = widened(b, b_from);
  const auto multiply = [&](float* to, std::int64_t ld) {
    blas::gemm(ta, tb, c.rows, c.cols, ta ? a.rows : a.cols, left.data(), a.cols, right.data(), b.cols, beta,
               to, ld);
  };
  if (c.of.dtype() == DType::f32) return multiply(c.of.data<float>() + c_at, c.of.ld());
  bf16* to = c.of.data<bf16>() + c_at;
  std::vector<float> sums = widened(c, to);
  multiply(sums.data(), c.cols);
  for (std::int64_t i = 0; i < c.rows; ++i)
    std::copy_n(sums.begin() + i * c.cols, c.cols, to + i * c.of.ld());
}

struct CpuKernels final : Mathematics<Cpu> {
  /// One product may use all threads. Of several products each runs on one thread, so that their bits do not
  /// depend on the number of threads; a BLAS on OpenMP does that in every parallel loop.
  void gemm(const Stack& c, double beta, const Stack& a, bool ta, const Stack& b, bool tb, std::int64_t outer,
            std::int64_t inner) const override {
    const std::int64_t k = ta ? a.rows : a.cols;
    if (c.rows * c.cols == 0) return;
    floating(a.of.dtype(), [&]<class T>(T) {
      const auto one = [&](std::int64_t i) {
        const auto at = [o = i / inner, n = i % inner](const Stack& s) {
          return s.first + o * s.outer + n * s.inner;
        };
        const T *left = a.of.data<T>() + at(a), *right = b.of.data<T>() + at(b);
        if constexpr (std::is_same_v<T, bf16>)
          gemm_of_bf16(c, at(c), static_cast<float>(beta), a, left, ta, b, right, tb);
        else
          blas::gemm(ta, tb, c.rows, c.cols, k, left, a.of.ld(), right, b.of.ld(), T(beta),
                     c.of.data<T>() + at(c), c.of.ld());
      };
      if (outer * inner == 1)
        one(0);
      else
        for_rows(outer * inner, c.rows * c.cols * k, one);
    });
  }

  void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) const override {
    floating(dy.dtype(), [&]<class T>(T) {
      const View<Arithmetic<T>> table(dtable);
      const View<T> from(dy);
      for (std::int64_t i = 0; i < dy.rows(); ++i) {
        const std::int32_t id = ids.data<std::int32_t>()[i];
        if (id < 0 || id >= dtable.rows()) continue;
        for (std::int64_t j = 0; j < dy.cols(); ++j) table.row(id)[j] += from.row(i)[j];
      }
    });
  }

  double sum_of_squares(const std::vector<Tensor>& parts) const override {
    double sum = 0;
    for (const Tensor& part : parts) {
      floating(part.dtype(), [&]<class T>(T) {
        const T* x = part.data<T>();
        sum += OneLane{}.sum(part.size(), [&](std::int64_t j) { return double(x[j]) * double(x[j]); });
      });
    }
    return sum;
  }

  void reduce(const Tensor& out, const std::vector<Tensor>& inputs, Reduce how) const override {
    with_type(out.dtype(), [&]<class T>(T) { reduce_typed<T>(out, inputs, how); });
  }

 private:
  /// Goes through the row in blocks that fit in the first-level cache, and sums each over all inputs before
  /// the next.
  template <class T>
  static void reduce_typed(const Tensor& out, const std::vector<Tensor>& inputs, Reduce how) {
    constexpr std::int64_t block = 2048;
    const auto work = block * static_cast<std::int64_t>(inputs.size());
    for_rows((out.size() + block - 1) / block, work, [&](std::int64_t index) {
      Arithmetic<T> sum[block];
      const std::int64_t begin = index * block, n = std::min(block, out.size() - begin);
      std::copy_n(inputs[0].data<T>() + begin, n, sum);
      for (std::size_t k = 1; k < inputs.size(); ++k) {
        const T* x = inputs[k].data<T>() + begin;
        if (how == Reduce::sum)
          for (std::int64_t j = 0; j < n; ++j) sum[j] += x[j];
        else
          for (std::int64_t j = 0; j < n; ++j) {
            const Arithmetic<T> other = x[j];
            sum[j] = sum[j] >= other || sum[j] != sum[j] ? sum[j] : other;
          }
      }
      std::copy_n(sum, n, out.data<T>() + begin);
    });
  }
};

}  // namespace

const Kernels& cpu_kernels() {
  static const CpuKernels kernels;
  return kernels;
}

void online_softmax(const Tensor& scores, const Tensor& o, const Tensor& largest, const Tensor& sum,
                    const AttentionTile& tile) {
  tile_rows<OnlineSoftmaxRow>(o.dtype(), scores, tile, scores, o, largest, sum);
}
void online_softmax_end(const Tensor& o, const Tensor& largest, const Tensor& sum,
                        const AttentionTile& tile) {
  tile_rows<OnlineSoftmaxEndRow>(o.dtype(), largest, tile, o, largest, sum);
}
void attention_delta(const Tensor& delta, const Tensor& dy, const Tensor& o, const AttentionTile& tile) {
  tile_rows<DeltaRow>(o.dtype(), delta, tile, delta, dy, o);
}
void attention_tile_backward(const Tensor& scores, const Tensor& dp, const Tensor& log_sum,
                             const Tensor& delta, const AttentionTile& tile) {
  tile_rows<AttentionBackwardRow>(dp.dtype(), scores, tile, scores, dp, log_sum, delta);
}

void set_math_threads(int threads) {
  math_threads = threads;
  blas::set_threads(threads);
}

int math_threads_or(int otherwise, int ranks_of_process) {
  const char* wanted = std::getenv("OMP_NUM_THREADS");  // "4", or "4,2" for nested regions
  const int threads = wanted != nullptr ? std::atoi(wanted) : 0;
  return threads > 0 ? std::max(1, threads / ranks_of_process) : otherwise;
}

void wait_passively() {
#ifdef _OPENMP
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  setenv("OMP_WAIT_POLICY", "passive", 1);
  setenv("GOMP_SPINCOUNT", "5000", 1);  // some 50 us, less than it takes to wake a thread that sleeps
  if (!words.empty()) execv("/proc/self/exe", arguments.data());  // goes on here where that fails
#endif
}

}  // namespace tessera
