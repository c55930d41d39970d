#include "ops/blas.hpp"
#include "ops/kernels.hpp"

namespace tessera {

namespace blas {

namespace {
template <class T>
void product(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda,
             const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == 0 ? T(0) : beta * c[i * ldc + j];
    for (std::int64_t p = 0; p < k; ++p) {
      const T left = ta ? a[p * lda + i] : a[i * lda + p];
      if (tb)
        for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] += left * b[j * ldb + p];
      else
        for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] += left * b[p * ldb + j];
    }
  }
}
}  // namespace

void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
          const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  product(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc);
}
void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t lda,
          const double* b, std::int64_t ldb, double beta, double* c, std::int64_t ldc) {
  product(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc);
}
void set_threads(int) {}

}  // namespace blas

std::string blas_name() { return "plain loops (no BLAS found)"; }

}  // namespace tessera
