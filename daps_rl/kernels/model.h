// The transformer: its blocks, its weights, and the memory that a thread takes it through with.

#pragma once

#include "attention.h"
#include "layers.h"

#include <ATen/ATen.h>

namespace daps {

using at::Tensor;
using at::TensorList;
using OptionalTensor = std::optional<Tensor>;

struct Sizes {
  int64_t contexts, samples, tokens, dim, heads, width, keys, hidden, vocab;
  int64_t widest() const { return std::max(hidden, dim); }  // the backward pass uses a hidden layer's memory again
};

// What a block's forward pass keeps for its backward pass.
struct Tape {
  Normalised attention, cross, mlp;
  Floats qkv, weights, mixed, query, cross_weights, cross_mixed, hidden, slope;
  Tape(const Sizes& s, int64_t rows)
      : attention(rows, s.dim), cross(rows, s.dim), mlp(rows, s.dim), qkv(rows * 3 * s.dim),
        weights(rows * s.heads * padded(s.tokens)), mixed(rows * s.dim), query(rows * s.dim),
        cross_weights(rows * s.heads * padded(s.keys)), cross_mixed(rows * s.dim), hidden(rows * s.widest()),
        slope(rows * s.widest()) {}
};

// What a thread is at: `length` tokens, from `position` on, of `codes` codes from number `first` on, `samples` to a
// context. Their queries, keys and values lie `span` floats apart from code to code.
struct Part {
  int64_t first, codes, samples, position, length, span;
  int64_t rows() const { return codes * length; }
  int64_t context(int64_t row) const { return (first + row / length) / samples; }
};

struct Block {
  LayerNorm norm_attention, norm_cross, norm_mlp;
  Linear qkv, out, query, cross_out, up, down;
  const float *key, *value;  // of the contexts. [B, H, P, d]
  float *key_grad = nullptr, *value_grad = nullptr;

  // Calls work(queries, keys, and where their weights lie, their results, they themselves, and their keys) for every
  // code and head. `all` holds queries, keys and values of every token so far.
  template <class Work>
  static void self_attention(const Sizes& s, const Part& p, const float* all, const Work& work) {
    const int64_t wide = 3 * s.dim;
    for (int64_t row = 0; row < p.rows(); row += p.length) {
      const int64_t code = row / p.length * p.span;
      for (int64_t h = 0; h < s.heads; h++) {
        const int64_t query = code + p.position * wide + h * s.width, key = code + s.dim + h * s.width;
        work(
            Queries{all + query, wide, p.length, p.position + 1, 1},
            Keys{all + key, all + key + s.dim, wide, p.position + p.length},
            (row * s.heads + h * p.length) * padded(s.tokens), row * s.dim + h * s.width, query, key);
      }
    }
  }

  // The same for every context and head: the context's codes that are here query its keys together.
  template <class Work>
  void cross_attention(const Sizes& s, const Part& p, const float* queries, const Work& work) const {
    const int64_t of_context = p.samples * p.length;
    for (int64_t row = 0, count = 0; row < p.rows(); row += count) {
      count = std::min(p.rows() - row, of_context - (p.first * p.length + row) % of_context);
      for (int64_t h = 0; h < s.heads; h++) {
        const int64_t query = row * s.dim + h * s.width, at = (p.context(row) * s.heads + h) * s.keys * s.width;
        work(
            Queries{queries + query, s.dim, count, s.keys, 0}, Keys{key + at, value + at, s.width, s.keys},
            (row * s.heads + h * count) * padded(s.keys), query, query, at);
      }
    }
  }

  // x [rows, D] in place; `all` holds queries, keys and values of every token so far.
  void forward(const Sizes& s, const Part& p, float* x, float* all, Tape& tape, float* spare, bool with_slope) const {
    const int64_t rows = p.rows(), wide = 3 * s.dim;
    norm_attention.forward(x, tape.attention, spare, rows);
    qkv.forward(spare, all + p.position * wide, rows, p.length > 1 ? wide : p.span, false);
    self_attention(s, p, all, [&](auto from, auto to, int64_t weights, int64_t result, int64_t, int64_t) {
      attend(
          from, to, s.width, tape.weights.data() + weights, padded(s.tokens), tape.mixed.data() + result, s.dim);
    });
    out.forward_add(tape.mixed.data(), x, rows);
    norm_cross.forward(x, tape.cross, spare, rows);
    query.forward(spare, tape.query.data(), rows);
    cross_attention(
        s, p, tape.query.data(), [&](auto from, auto to, int64_t weights, int64_t result, int64_t, int64_t) {
          attend(
              from, to, s.width, tape.cross_weights.data() + weights, padded(s.keys), tape.cross_mixed.data() + result,
              s.dim);
        });
    cross_out.forward_add(tape.cross_mixed.data(), x, rows);
    norm_mlp.forward(x, tape.mlp, spare, rows);
    up.forward(spare, tape.hidden.data(), rows);
    gelu(tape.hidden.data(), with_slope ? tape.slope.data() : nullptr, rows * s.hidden);
    down.forward_add(tape.hidden.data(), x, rows);
  }

  // dx [rows, D]: from the gradient of what `forward` gave to that of what it took. The rest is overwritten.
  void backward(
      const Sizes& s, const Part& p, float* dx, Tape& tape, float* spare, float* wide, float* scores) const {
    const int64_t rows = p.rows();
    down.backward(tape.hidden.data(), dx, wide, rows);
    at::vec::map2([](Vec grad, Vec slope) { return grad * slope; }, wide, wide, tape.slope.data(), rows * s.hidden);
    float* dy = tape.hidden.data();  // no longer needed, as is the slope
    float* dmixed = tape.slope.data();
    norm_mlp.output(tape.mlp, spare, rows);
    up.backward(spare, wide, dy, rows);
    norm_mlp.backward_add(tape.mlp, dy, dx, rows);

    cross_out.backward(tape.cross_mixed.data(), dx, dmixed, rows);
    std::memset(wide, 0, rows * s.dim * sizeof(float));
    cross_attention(
        s, p, tape.query.data(),
        [&](auto from, auto to, int64_t weights, int64_t result, int64_t of_query, int64_t of_key) {
          attend_backward(
              from, to, s.width, tape.cross_weights.data() + weights, padded(s.keys), tape.cross_mixed.data() + result,
              dmixed + result, s.dim, wide + of_query, key_grad + of_key, value_grad + of_key, scores);
        });
    norm_cross.output(tape.cross, spare, rows);
    query.backward(spare, wide, dy, rows);
    norm_cross.backward_add(tape.cross, dy, dx, rows);

    out.backward(tape.mixed.data(), dx, dmixed, rows);
    std::memset(wide, 0, rows * 3 * s.dim * sizeof(float));
    self_attention(
        s, p, tape.qkv.data(),
        [&](auto from, auto to, int64_t weights, int64_t result, int64_t of_query, int64_t of_key) {
          attend_backward(
              from, to, s.width, tape.weights.data() + weights, padded(s.tokens), tape.mixed.data() + result,
              dmixed + result, s.dim, wide + of_query, wide + of_key, wide + of_key + s.dim, scores);
        });
    norm_attention.output(tape.attention, spare, rows);
    qkv.backward(spare, wide, dy, rows);
    norm_attention.backward_add(tape.attention, dy, dx, rows);
  }
};

struct Model {
  Sizes s;
  const float *start, *embedding, *positions, *aligned;
  float *start_grad = nullptr, *embedding_grad = nullptr, *aligned_grad = nullptr;
  std::vector<Block> blocks;
  LayerNorm norm;
  Head head;
  int64_t parameters = 0;

  // In the order of CodeTransformer's tensors: start, embedding, positions; per block the norm, qkv and out of its
  // self-attention, the norm, query and out of its cross-attention, the norm, up and down of its feed-forward layer;
  // the last norm; a Gaussian head's layer; the head's. `grads` has room for as many floats.
  Model(
      TensorList weights, TensorList context, const OptionalTensor& aligned_with, int64_t samples, bool gaussian,
      float* grads = nullptr) {
    const Tensor& keys = context[0];
    s = {keys.size(0), samples, weights[2].size(0), weights[1].size(1), keys.size(1), keys.size(3), keys.size(2), 0,
         weights.back().size(0)};
    size_t index = 0;
    float* grad = nullptr;
    auto next = [&] {
      const Tensor& tensor = weights[index++];
      TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat, "weights must be contiguous float32");
      grad = grads == nullptr ? nullptr : grads + parameters;
      parameters += tensor.numel();
      return tensor.const_data_ptr<float>();
    };
    auto layer_norm = [&] {
      LayerNorm made{next(), nullptr, s.dim};
      made.weight_grad = grad;
      made.bias = next();
      made.bias_grad = grad;
      TORCH_CHECK(weights[index - 2].numel() == s.dim && weights[index - 1].numel() == s.dim, "a norm's width");
      return made;
    };
    auto linear = [&](int64_t in, int64_t out) {
      const Tensor& weight = weights[index];
      Linear made{next(), nullptr, weight.size(1), weight.size(0)};
      made.weight_grad = grad;
      made.bias = next();
      made.bias_grad = grad;
      TORCH_CHECK(
          made.in == in && (out == 0 || made.out == out) && weights[index - 1].numel() == made.out,
          "a layer must take ", in, " and give ", out, ", got ", made.in, " and ", made.out);
      return made;
    };
    start = next();
    start_grad = grad;
    embedding = next();
    embedding_grad = grad;
    positions = next();
    TORCH_CHECK(weights[1].size(0) == s.vocab, "the embedding has ", weights[1].size(0), " tokens, the head ", s.vocab);
    TORCH_CHECK(
        !aligned_with || (aligned_with->is_contiguous() &&
                          aligned_with->sizes() == at::IntArrayRef({s.contexts, 1, s.tokens, s.dim})),
        "what is added must be [B, 1, T, D]");
    aligned = aligned_with ? aligned_with->const_data_ptr<float>() : nullptr;
    for (size_t i = 0; i < context.size(); i += 2) {
      Block made;
      made.norm_attention = layer_norm();
      made.qkv = linear(s.dim, 3 * s.dim);
      made.out = linear(s.dim, s.dim);
      made.norm_cross = layer_norm();
      made.query = linear(s.dim, s.dim);
      made.cross_out = linear(s.dim, s.dim);
      made.norm_mlp = layer_norm();
      made.up = linear(s.dim, 0);
      made.down = linear(made.up.out, s.dim);
      for (size_t j = i; j < i + 2; j++) {
        TORCH_CHECK(
            context[j].is_contiguous() && context[j].sizes() == keys.sizes() && s.heads * s.width == s.dim,
            "keys and values must be [B, H, P, D / H]");
      }
      made.key = context[i].const_data_ptr<float>();
      made.value = context[i + 1].const_data_ptr<float>();
      s.hidden = std::max(s.hidden, made.up.out);
      blocks.push_back(made);
    }
    norm = layer_norm();
    if (gaussian) head.gaussian = linear(s.dim, 0);
    head.out = linear(gaussian ? head.gaussian->out : s.dim, s.vocab);
  }

  // What the first block reads of one token; `before` is the token before it.
  void input(float* x, int64_t context, int64_t position, int64_t before) const {
    std::memcpy(x, position == 0 ? start : embedding + before * s.dim, s.dim * sizeof(float));
    add(x, positions + position * s.dim, s.dim);
    if (aligned != nullptr) add(x, aligned + (context * s.tokens + position) * s.dim, s.dim);
  }

  void input_backward(const float* dx, int64_t context, int64_t position, int64_t before) const {
    add(position == 0 ? start_grad : embedding_grad + before * s.dim, dx, s.dim);
    if (aligned_grad != nullptr) add(aligned_grad + (context * s.tokens + position) * s.dim, dx, s.dim);
  }
};

// A thread's memory for so many rows.
struct Desk {
  std::vector<Tape> tapes;
  Normalised normed;
  Floats x, spare, wide, scores, logits, mass, raw, natural, dnatural;
  Desk(const Model& m, int64_t rows, size_t tapes_needed)
      : tapes(tapes_needed, Tape(m.s, rows)), normed(rows, m.s.dim), x(rows * m.s.dim), spare(rows * m.s.dim),
        wide(rows * std::max(m.s.hidden, 3 * m.s.dim)), scores(rows * padded(std::max(m.s.tokens, m.s.keys))),
        logits(rows * m.s.vocab), mass(rows),
        raw(rows * m.head.parameters()), natural(rows * m.head.parameters()), dnatural(rows * m.head.parameters()) {}

  // From x to logits, by way of `spare`.
  void read_out(const Model& m, int64_t rows) {
    m.norm.forward(x.data(), normed, spare.data(), rows);
    m.head.forward(spare.data(), raw, natural, logits.data(), rows);
  }
};

}  // namespace daps
