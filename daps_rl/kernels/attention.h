// Scaled dot-product attention of one head, and its gradients.

#pragma once

#include "vectors.h"

#include <type_traits>

namespace daps {

// Attention is matrix products, but for fewer queries, or fewer pairs of a query and a key.
constexpr int64_t FEW = 4, MANY = 1024;

// Room for the weights of so many keys: whole vectors.
constexpr int64_t padded(int64_t keys) { return (keys + 15) / 16 * 16; }

// Keys and values of one head, a token every `stride` floats.
struct Keys {
  const float *key, *value;
  int64_t stride, count;
};

// Queries of one head, a token every `stride` floats. The first sees `sees` keys, every other `more` than the last.
struct Queries {
  const float* query;
  int64_t stride, count, sees, more;
};

// One query. Widths that are common are known to the compiler as D; any other has D = 0.
template <int64_t D>
[[gnu::flatten]] inline void attend_one(
    const float* query, const Keys& to, int64_t width, float* weights, float* out) {
  const int64_t d = D > 0 ? D : width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  float top = -INFINITY;
  for (int64_t j = 0; j < to.count; j++) {
    weights[j] = dot(query, to.key + j * to.stride, d) * scale;
    top = std::max(top, weights[j]);
  }
  const int64_t room = padded(to.count);
  for (int64_t j = to.count; j < room; j++) weights[j] = -INFINITY;
  for (int64_t j = 0; j < room; j += Vec::size()) {
    (Vec::loadu(weights + j) - Vec(top)).exp_u20().store(weights + j);
  }
  const float normaliser = 1.0f / total(weights, room);
  std::memset(out, 0, d * sizeof(float));
  for (int64_t j = 0; j < to.count; j++) {
    weights[j] *= normaliser;
    add(out, to.value + j * to.stride, d, weights[j]);
  }
}

// Adds to the gradients of query, keys and values.
template <int64_t D>
inline void attend_one_backward(
    const float* query, const Keys& to, int64_t width, const float* weights, const float* out, const float* dout,
    float* dquery, float* dkey, float* dvalue) {
  const int64_t d = D > 0 ? D : width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d)), along = dot(dout, out, d);
  for (int64_t j = 0; j < to.count; j++) {
    const int64_t at = j * to.stride;
    const float dscore = weights[j] * (dot(dout, to.value + at, d) - along) * scale;
    add(dvalue + at, dout, d, weights[j]);
    add(dquery, to.key + at, d, dscore);
    add(dkey + at, query, d, dscore);
  }
}

template <class Function>
void with_width(int64_t width, const Function& function) {
  switch (width) {
    case 16: return function(std::integral_constant<int64_t, 16>());
    case 32: return function(std::integral_constant<int64_t, 32>());
    case 64: return function(std::integral_constant<int64_t, 64>());
    default: return function(std::integral_constant<int64_t, 0>());
  }
}

// Scaled dot-product attention of queries to keys, d wide. Results lie `out_stride` floats apart, weights `row`.
inline void attend(
    const Queries& from, const Keys& to, int64_t d, float* weights, int64_t row, float* out, int64_t out_stride) {
  if (from.count < FEW || from.count * to.count < MANY) {
    return with_width(d, [&](auto known) {
      for (int64_t i = 0; i < from.count; i++) {
        const Keys seen{to.key, to.value, to.stride, from.sees + i * from.more};
        attend_one<decltype(known)::value>(
            from.query + i * from.stride, seen, d, weights + i * row, out + i * out_stride);
      }
    });
  }
  gemm('T', 'N', to.count, from.count, d, to.key, to.stride, from.query, from.stride, 0.0f, weights, row);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t i = 0; i < from.count; i++) {
    float* own = weights + i * row;
    const int64_t sees = from.sees + i * from.more;
    for (int64_t j = 0; j < sees; j++) own[j] *= scale;
    const float normaliser = 1.0f / exponentiate(own, sees).mass;
    for (int64_t j = 0; j < sees; j++) own[j] *= normaliser;
    std::fill(own + sees, own + to.count, 0.0f);
  }
  gemm('N', 'N', d, from.count, to.count, to.value, to.stride, weights, row, 0.0f, out, out_stride);
}

// Adds to the gradients of queries, keys and values, which lie as these do. `spare` has room for as many weights.
inline void attend_backward(
    const Queries& from, const Keys& to, int64_t d, const float* weights, int64_t row, const float* out,
    const float* dout, int64_t out_stride, float* dquery, float* dkey, float* dvalue, float* spare) {
  if (from.count < FEW || from.count * to.count < MANY) {
    return with_width(d, [&](auto known) {
      for (int64_t i = 0; i < from.count; i++) {
        const Keys seen{to.key, to.value, to.stride, from.sees + i * from.more};
        attend_one_backward<decltype(known)::value>(
            from.query + i * from.stride, seen, d, weights + i * row, out + i * out_stride, dout + i * out_stride,
            dquery + i * from.stride, dkey, dvalue);
      }
    });
  }
  gemm('N', 'T', d, to.count, from.count, dout, out_stride, weights, row, 1.0f, dvalue, to.stride);
  gemm('T', 'N', to.count, from.count, d, to.value, to.stride, dout, out_stride, 0.0f, spare, row);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t i = 0; i < from.count; i++) {
    const float along = dot(dout + i * out_stride, out + i * out_stride, d);
    const float* __restrict own = weights + i * row;
    float* __restrict dscore = spare + i * row;
#pragma omp simd
    for (int64_t j = 0; j < to.count; j++) dscore[j] = own[j] * (dscore[j] - along) * scale;
  }
  gemm('N', 'N', d, from.count, to.count, to.key, to.stride, spare, row, 1.0f, dquery, from.stride);
  gemm('N', 'T', d, to.count, from.count, from.query, from.stride, spare, row, 1.0f, dkey, to.stride);
}

}  // namespace daps
