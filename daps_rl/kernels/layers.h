// Layers and their gradients. Rows are tokens.

#pragma once

#include "vectors.h"

#include <optional>

namespace daps {

constexpr float LARGEST_LOG_PRECISION = 6.0f;  // of a head on a lattice, as in policies/lattice.py

// x W' + b
struct Linear {
  const float *weight, *bias;
  int64_t in, out;
  float *weight_grad = nullptr, *bias_grad = nullptr;

  // x [n, in] → y [n, out], or added to y; y's rows lie `stride` apart.
  void forward(const float* x, float* y, int64_t n, int64_t stride, bool adds) const {
    for (int64_t i = 0; i < n; i++) {
      if (adds) {
        add(y + i * stride, bias, out);
      } else {
        std::memcpy(y + i * stride, bias, out * sizeof(float));
      }
    }
    gemm('T', 'N', out, n, in, weight, in, x, in, 1.0f, y, stride);
  }
  void forward(const float* x, float* y, int64_t n) const { forward(x, y, n, out, false); }
  void forward_add(const float* x, float* y, int64_t n) const { forward(x, y, n, out, true); }

  // dy [n, out] → dx [n, in]; the gradients of weight and bias are added to.
  void backward(const float* x, const float* dy, float* dx, int64_t n) const {
    for (int64_t i = 0; i < n; i++) add(bias_grad, dy + i * out, out);
    gemm('N', 'T', in, out, n, x, in, dy, out, 1.0f, weight_grad, in);
    gemm('N', 'N', in, n, out, weight, in, dy, out, 0.0f, dx, in);
  }
};

// What a normalisation keeps for the backward pass.
struct Normalised {
  Floats value, scale;
  Normalised(int64_t rows, int64_t dim) : value(rows * dim), scale(rows) {}
};

struct LayerNorm {
  const float *weight, *bias;
  int64_t dim;
  float *weight_grad = nullptr, *bias_grad = nullptr;

  void forward(const float* x, Normalised& kept, float* y, int64_t n) const {
    for (int64_t i = 0; i < n; i++) {
      const float* __restrict row = x + i * dim;
      const float mean = total(row, dim) / dim;
      float square = 0.0f;
#pragma omp simd reduction(+ : square)
      for (int64_t j = 0; j < dim; j++) square += (row[j] - mean) * (row[j] - mean);
      const float scale = 1.0f / std::sqrt(square / dim + 1e-5f);
      float* __restrict value = kept.value.data() + i * dim;
      kept.scale[i] = scale;
#pragma omp simd
      for (int64_t j = 0; j < dim; j++) value[j] = (row[j] - mean) * scale;
    }
    output(kept, y, n);
  }

  // What `forward` gave, once more.
  void output(const Normalised& kept, float* y, int64_t n) const {
    const float *__restrict gain = weight, *__restrict shift = bias;
    for (int64_t i = 0; i < n; i++) {
      const float* __restrict value = kept.value.data() + i * dim;
      float* __restrict out = y + i * dim;
#pragma omp simd
      for (int64_t j = 0; j < dim; j++) out[j] = value[j] * gain[j] + shift[j];
    }
  }

  // Adds to dx.
  void backward_add(const Normalised& kept, const float* dy, float* dx, int64_t n) const {
    const float* __restrict gain = weight;
    float *__restrict of_gain = weight_grad, *__restrict of_shift = bias_grad;
    for (int64_t i = 0; i < n; i++) {
      const float *__restrict value = kept.value.data() + i * dim, *__restrict grad = dy + i * dim;
      const float scale = kept.scale[i];
      float* __restrict out = dx + i * dim;
      float mean = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : mean, along)
      for (int64_t j = 0; j < dim; j++) {
        mean += grad[j] * gain[j];
        along += grad[j] * gain[j] * value[j];
      }
      mean /= dim;
      along /= dim;
#pragma omp simd
      for (int64_t j = 0; j < dim; j++) {
        of_shift[j] += grad[j];
        of_gain[j] += grad[j] * value[j];
        out[j] += scale * (grad[j] * gain[j] - mean - value[j] * along);
      }
    }
  }
};

// Logits of every token: linear, or, on a lattice, linear in the natural parameters of a Gaussian.
struct Head {
  std::optional<Linear> gaussian;  // to mean m and log precision l, d each
  Linear out;

  int64_t parameters() const { return gaussian ? gaussian->out : 0; }

  // `raw` keeps m and l, `natural` 2 p m and p, with p = exp(l).
  void forward(const float* x, Floats& raw, Floats& natural, float* logits, int64_t n) const {
    if (!gaussian) return out.forward(x, logits, n);
    const int64_t d = gaussian->out / 2;
    gaussian->forward(x, raw.data(), n);
    for (int64_t i = 0; i < n; i++) {
      const float* row = raw.data() + i * 2 * d;
      float* own = natural.data() + i * 2 * d;
      for (int64_t j = 0; j < d; j++) {
        const float precision = std::exp(std::clamp(row[d + j], -LARGEST_LOG_PRECISION, LARGEST_LOG_PRECISION));
        own[j] = 2.0f * precision * row[j];
        own[d + j] = precision;
      }
    }
    out.forward(natural.data(), logits, n);
  }

  void backward(
      const float* x, const Floats& raw, const Floats& natural, const float* dlogits, float* dx, Floats& spare,
      int64_t n) const {
    if (!gaussian) return out.backward(x, dlogits, dx, n);
    const int64_t d = gaussian->out / 2;
    out.backward(natural.data(), dlogits, spare.data(), n);
    for (int64_t i = 0; i < n; i++) {
      const float *row = raw.data() + i * 2 * d, *own = natural.data() + i * 2 * d;
      float* grad = spare.data() + i * 2 * d;
      for (int64_t j = 0; j < d; j++) {
        const bool clamped = std::abs(row[d + j]) > LARGEST_LOG_PRECISION;
        const float of_mean = 2.0f * own[d + j] * grad[j], of_log = own[j] * grad[j] + own[d + j] * grad[d + j];
        grad[j] = of_mean;
        grad[d + j] = clamped ? 0.0f : of_log;
      }
    }
    gaussian->backward(x, spare.data(), dx, n);
  }
};

}  // namespace daps
