// OpenBLAS, preferably its openmp build: the pthread build serialises calls of several threads on one lock.
#include "ops/blas.hpp"

#include <cblas.h>

#include <climits>

#include "ops/kernels.hpp"
#include "tensor/error.hpp"

#ifdef _OPENMP
extern "C" void omp_set_num_threads(int);  // of omp.h, which clang has no copy of where g++'s libgomp is used
#endif

namespace tessera {

namespace blas {

namespace {
CBLAS_TRANSPOSE flag(bool transposed) { return transposed ? CblasTrans : CblasNoTrans; }
int size(std::int64_t n) {
  expect(n <= INT_MAX,
         [&] { return format("matmul: BLAS counts to {}, this matrix has a side of {}", INT_MAX, n); });
  return static_cast<int>(n);
}
/// A matrix without columns may have rows 0 apart; BLAS demands 1 and then reads nothing.
int leading(std::int64_t ld) { return size(ld > 1 ? ld : 1); }
}  // namespace

void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
          const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  cblas_sgemm(CblasRowMajor, flag(ta), flag(tb), size(m), size(n), size(k), 1, a, leading(lda), b,
              leading(ldb), beta, c, leading(ldc));
}
void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t lda,
          const double* b, std::int64_t ldb, double beta, double* c, std::int64_t ldc) {
  cblas_dgemm(CblasRowMajor, flag(ta), flag(tb), size(m), size(n), size(k), 1, a, leading(lda), b,
              leading(ldb), beta, c, leading(ldc));
}

void set_threads(int threads) {
#ifdef _OPENMP
  if (openblas_get_parallel() == 2) {
    omp_set_num_threads(threads);  // of the calling thread alone
    return;
  }
#endif
  openblas_set_num_threads(threads);
}

}  // namespace blas

std::string blas_name() {
  static constexpr const char* builds[] = {"sequential", "pthread", "openmp"};
  const std::string config = openblas_get_config();  // "OpenBLAS 0.3.21 ..."
  const auto version = config.substr(0, config.find(' ', config.find(' ') + 1));
  return format("{} ({})", version, builds[openblas_get_parallel()]);
}

}  // namespace tessera
