// Vectors in float32: what the layers are made of, beside products of matrices.

#pragma once

#include "gemm.h"

#if defined(__AVX512F__)
#define CPU_CAPABILITY AVX512
#define CPU_CAPABILITY_AVX512
#elif defined(__AVX2__)
#define CPU_CAPABILITY AVX2
#define CPU_CAPABILITY_AVX2
#endif

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace daps {

using Floats = std::vector<float>;
using Vec = at::vec::Vectorized<float>;

// y += scale x
inline void add(float* __restrict y, const float* __restrict x, int64_t n, float scale = 1.0f) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] += scale * x[i];
}

inline float dot(const float* __restrict a, const float* __restrict b, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

inline float total(const float* x, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i];
  return sum;
}

struct Softmax {
  float top, mass;
};

// Logits → exp(logit - largest); returns the largest, and the sum of what is left there.
[[gnu::flatten]] inline Softmax exponentiate(float* logits, int64_t n) {
  const float top = at::vec::reduce_all<float>([](Vec a, Vec b) { return at::vec::maximum(a, b); }, logits, n);
  Vec mass(0.0f);
  int64_t i = 0;
  for (; i + Vec::size() <= n; i += Vec::size()) {
    const Vec term = (Vec::loadu(logits + i) - Vec(top)).exp_u20();
    term.store(logits + i);
    mass = mass + term;
  }
  float rest = 0.0f;
  for (; i < n; i++) rest += logits[i] = std::exp(logits[i] - top);
  return {top, rest + at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return a + b; }, mass, Vec::size())};
}

// x → gelu(x), and its slope where that is asked for.
[[gnu::flatten]] inline void gelu(float* x, float* slope, int64_t n) {
  const Vec half(0.5f), one(1.0f), root(0.70710678118654752f), density(0.39894228040143268f);
  for (int64_t i = 0; i < n; i += Vec::size()) {
    const int64_t count = std::min<int64_t>(Vec::size(), n - i);
    const Vec value = Vec::loadu(x + i, count);
    const Vec below = half * (one + (value * root).erf());  // of a standard normal variable
    if (slope != nullptr) {
      (below + value * density * (value * value * Vec(-0.5f)).exp_u20()).store(slope + i, count);
    }
    (value * below).store(x + i, count);
  }
}

// Inverse of the cumulative distribution, as functional/sampling.py has it. A token without probability is never drawn.
inline int64_t draw_token(const float* probs, int64_t n, float mass, float uniform) {
  constexpr int64_t STEP = 16;
  const float threshold = std::min(uniform * mass, std::nextafter(mass, 0.0f));
  float below = 0.0f;
  int64_t v = 0;
  for (; v + STEP <= n; v += STEP) {
    const float sum = total(probs + v, STEP);
    if (below + sum > threshold) break;
    below += sum;
  }
  for (; v < n; v++) {
    below += probs[v];
    if (below > threshold) return v;
  }
  for (v = n - 1; v > 0 && probs[v] == 0.0f;) v--;  // the sum rounds to less than the mass
  return v;
}

}  // namespace daps
