// One row-major GEMM, from OpenBLAS where it is found (blas_openblas.cpp), else as plain loops
// (blas_plain.cpp).
#pragma once

#include <cstdint>

namespace tessera::blas {

/// c (m, n) = beta c + op(a) op(b), op(a) (m, k), op(b) (k, n), row-major with leading dimensions.
void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
          const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);
void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t lda,
          const double* b, std::int64_t ldb, double beta, double* c, std::int64_t ldc);
/// Sets the number of threads for the products of the calling thread. Ranks that are threads each call it
/// with 1.
void set_threads(int threads);

}  // namespace tessera::blas
