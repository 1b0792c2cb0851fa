// Products of matrices in float32, for blocks that lie in a core's own cache.
//
// The BLAS that PyTorch brings along is called, but for the larger ones on AMD's processors with AVX-512, of which it
// takes no notice (see linear.py).

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(DAPS_AVX512)
#include <immintrin.h>
#endif

extern "C" void sgemm_(
    const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*, const float*,
    const int*, const float*, float*, const int*);

namespace daps {

#if defined(DAPS_AVX512)

constexpr int64_t LANES = 16, VECTORS = 4, ROWS_AT_ONCE = 6;  // 24 sums in registers
constexpr int64_t LEAST = 1 << 15;  // multiplications; of fewer, as in attention, the BLAS is as fast

// A matrix by its element (i, j) at data[i * row + j * column].
struct View {
  const float* data;
  int64_t row, column;
};

// C [R, columns] = A B, or added to it: A [R, k], B [k, columns] with its rows contiguous, at most V vectors wide. The
// lanes of the last vector are those in `tail`.
template <int64_t R, int64_t V>
void tile(const View a, const View b, const int64_t k, float* c, int64_t stride, bool adds, const __mmask16 tail) {
  __m512 sums[R][V];
#pragma GCC unroll 8
  for (int64_t r = 0; r < R; r++) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < V; v++) {
      const __mmask16 lanes = v + 1 < V ? 0xFFFF : tail;
      sums[r][v] = adds ? _mm512_maskz_loadu_ps(lanes, c + r * stride + v * LANES) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; i++) {
    __m512 row[V];
#pragma GCC unroll 8
    for (int64_t v = 0; v < V; v++) {
      row[v] = _mm512_maskz_loadu_ps(v + 1 < V ? 0xFFFF : tail, b.data + i * b.row + v * LANES);
    }
#pragma GCC unroll 8
    for (int64_t r = 0; r < R; r++) {
      const __m512 factor = _mm512_set1_ps(a.data[r * a.row + i * a.column]);
#pragma GCC unroll 8
      for (int64_t v = 0; v < V; v++) sums[r][v] = _mm512_fmadd_ps(factor, row[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < R; r++) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < V; v++) {
      _mm512_mask_storeu_ps(c + r * stride + v * LANES, v + 1 < V ? 0xFFFF : tail, sums[r][v]);
    }
  }
}

// The same of n rows, R at a time, then of what is left.
template <int64_t R, int64_t V>
void tiles(View a, const View& b, int64_t n, int64_t k, float* c, int64_t stride, bool adds, __mmask16 tail) {
  for (; n >= R; n -= R, a.data += R * a.row, c += R * stride) tile<R, V>(a, b, k, c, stride, adds, tail);
  if constexpr (R > 1) tiles<R - 1, V>(a, b, n, k, c, stride, adds, tail);
}

// C [n, m] = A B, or added to it: A [n, k], B [k, m] with its rows contiguous; C's rows lie `stride` apart.
inline void product(
    const View& a, View b, int64_t n, int64_t m, int64_t k, float* c, int64_t stride, bool adds) {
  for (int64_t width; m > 0; m -= width, b.data += width, c += width) {
    width = std::min(m, VECTORS * LANES);
    const int64_t vectors = (width + LANES - 1) / LANES;
    const __mmask16 tail = 0xFFFF >> (vectors * LANES - width);
    switch (vectors) {
      case 4: tiles<ROWS_AT_ONCE, 4>(a, b, n, k, c, stride, adds, tail); break;
      case 3: tiles<ROWS_AT_ONCE, 3>(a, b, n, k, c, stride, adds, tail); break;
      case 2: tiles<ROWS_AT_ONCE, 2>(a, b, n, k, c, stride, adds, tail); break;
      default: tiles<ROWS_AT_ONCE, 1>(a, b, n, k, c, stride, adds, tail);
    }
  }
}

// [rows, columns] → its transpose, contiguous, in memory of this thread that lasts to its next call.
inline const float* transposed(const float* x, int64_t rows, int64_t columns, int64_t stride) {
  thread_local std::vector<float> kept;
  kept.resize(rows * columns);
  for (int64_t i = 0; i < rows; i += LANES) {
    const int64_t end = std::min(i + LANES, rows);
    for (int64_t j = 0; j < columns; j++) {
      for (int64_t r = i; r < end; r++) kept[j * rows + r] = x[r * stride + j];
    }
  }
  return kept.data();
}

#endif

// c = a b + beta c with beta 0 or 1; matrices by columns, 'T' for transposed.
inline void gemm(
    char of_a, char of_b, int m, int n, int k, const float* a, int lda, const float* b, int ldb, float beta, float* c,
    int ldc) {
#if defined(DAPS_AVX512)
  if (int64_t(m) * n * k >= LEAST) {  // by rows, c' = b' a'
    const View rows = of_b == 'N' ? View{b, ldb, 1} : View{b, 1, ldb};
    const View columns = of_a == 'N' ? View{a, lda, 1} : View{transposed(a, m, k, lda), m, 1};
    return product(rows, columns, n, m, k, c, ldc, beta != 0.0f);
  }
#endif
  const float one = 1.0f;
  sgemm_(&of_a, &of_b, &m, &n, &k, &one, a, &lda, b, &ldb, &beta, c, &ldc);
}

}  // namespace daps
