// The passes of a code transformer (policies/code_transformer.py) on a CPU, in float32.
//
// PyTorch runs one operation over all codes, then the next: what lies between them goes through memory. Here a thread
// takes a few codes at a time through all layers, and back, so that everything between stays in the core's own cache.
// Drawing takes them through all tokens. Matrix products are the BLAS's that PyTorch brings along.
//
// Codes are counted through: code i is of context i / K. A row is a token: row r is token r % L of code r / L.

#include "model.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <tuple>

namespace daps {
namespace {

constexpr int64_t ROWS = 128;  // at a time, about: what they need fits a core's second-level cache
constexpr int64_t LARGEST_GRADIENTS = 1 << 28;  // entries: 1 GiB

// Calls work(begin, end) for ranges of all codes, one on each of at most so many threads; a range begins at a multiple
// of `unit`.
template <class Work>
void over_codes(const Sizes& s, int64_t unit, int64_t threads, const Work& work) {
  const int64_t units = s.contexts * s.samples / unit;
  at::parallel_for(0, units, (units + threads - 1) / threads, [&](int64_t begin, int64_t end) {
    work(begin * unit, end * unit);
  });
}

// Teacher-forced logits of codes z [codes, T], to desk.logits.
Part forward(const Model& m, Desk& desk, int64_t first, int64_t codes, const int64_t* z, bool with_slope) {
  const Sizes& s = m.s;
  const Part part{first, codes, s.samples, 0, s.tokens, s.tokens * 3 * s.dim};
  for (int64_t row = 0; row < part.rows(); row++) {
    const int64_t position = row % s.tokens;
    m.input(desk.x.data() + row * s.dim, part.context(row), position, position ? z[row - 1] : 0);
  }
  for (size_t i = 0; i < m.blocks.size(); i++) {
    Tape& tape = desk.tapes[with_slope ? i : 0];
    m.blocks[i].forward(s, part, desk.x.data(), tape.qkv.data(), tape, desk.spare.data(), with_slope);
  }
  desk.read_out(m, part.rows());
  return part;
}

// Draws a code by each row of numbers in [0, 1), uniform [B, K, T]; the likeliest tokens where there are none (K = 1).
// Codes [B, K, T] and their log-probabilities [B, K].
std::tuple<Tensor, Tensor> draw(
    TensorList weights, TensorList context, const OptionalTensor& aligned, const OptionalTensor& uniform,
    bool gaussian) {
  const Model m(weights, context, aligned, uniform ? uniform->size(1) : 1, gaussian);
  const Sizes& s = m.s;
  TORCH_CHECK(
      !uniform || (uniform->is_contiguous() &&
                   uniform->sizes() == at::IntArrayRef({s.contexts, s.samples, s.tokens})),
      "numbers must be [B, K, T]");
  Tensor codes = at::empty({s.contexts, s.samples, s.tokens}, context[0].options().dtype(at::kLong));
  Tensor log_prob = at::zeros({s.contexts, s.samples}, context[0].options());
  const float* numbers = uniform ? uniform->const_data_ptr<float>() : nullptr;
  int64_t* all_codes = codes.data_ptr<int64_t>();
  float* score = log_prob.data_ptr<float>();
  const int64_t wide = 3 * s.dim, span = s.tokens * wide;
  over_codes(s, 1, at::get_num_threads(), [&](int64_t begin, int64_t end) {
    const int64_t most = std::min(ROWS, end - begin);
    Desk desk(m, most, 1);
    std::vector<Floats> kept(m.blocks.size(), Floats(most * span));  // queries, keys and values of the tokens so far
    Floats of_start(most * wide);
    for (int64_t first = begin; first < end; first += most) {
      const int64_t count = std::min(most, end - first), from = first / s.samples;
      for (int64_t t = 0; t < s.tokens; t++) {
        // The codes of a context begin alike: what their first tokens are drawn from is computed once.
        const Part part = t == 0 ? Part{from, (first + count - 1) / s.samples - from + 1, 1, 0, 1, wide}
                                 : Part{first, count, s.samples, t, 1, span};
        for (int64_t row = 0; row < part.codes; row++) {
          const int64_t before = t == 0 ? 0 : all_codes[(first + row) * s.tokens + t - 1];
          m.input(desk.x.data() + row * s.dim, part.context(row), t, before);
        }
        for (size_t i = 0; i < m.blocks.size(); i++) {
          float* qkv = t == 0 ? of_start.data() : kept[i].data();
          m.blocks[i].forward(s, part, desk.x.data(), qkv, desk.tapes[0], desk.spare.data(), false);
          for (int64_t k = 0; t == 0 && k < count; k++) {
            const float* own = of_start.data() + ((first + k) / s.samples - from) * wide;
            std::memcpy(kept[i].data() + k * span, own, wide * sizeof(float));
          }
        }
        desk.read_out(m, part.codes);
        Floats& mass = desk.mass;
        for (int64_t row = 0; row < part.codes; row++) {
          mass[row] = exponentiate(desk.logits.data() + row * s.vocab, s.vocab).mass;
        }
        for (int64_t code = first; code < first + count; code++) {
          const int64_t row = t == 0 ? code / s.samples - from : code - first;
          const float* probs = desk.logits.data() + row * s.vocab;
          const int64_t token = numbers == nullptr
              ? std::max_element(probs, probs + s.vocab) - probs
              : draw_token(probs, s.vocab, mass[row], numbers[code * s.tokens + t]);
          all_codes[code * s.tokens + t] = token;
          score[code] += std::log(probs[token] / mass[row]);
        }
      }
    }
  });
  return {codes, log_prob};
}

void check_codes(const Tensor& codes, const Sizes& s) {
  TORCH_CHECK(
      codes.is_contiguous() && codes.sizes() == at::IntArrayRef({s.contexts, s.samples, s.tokens}),
      "codes must be [B, K, T]");
  if (codes.numel() == 0) return;
  const auto [least, largest] = at::aminmax(codes);
  TORCH_CHECK_INDEX(
      least.item<int64_t>() >= 0 && largest.item<int64_t>() < s.vocab, "codes must lie in 0 … ", s.vocab - 1,
      ", got some from ", least.item<int64_t>(), " to ", largest.item<int64_t>(), "; they are the numbers of tokens.");
}

// log q(z|x) of codes [B, K, T]. [B, K].
Tensor log_prob(
    TensorList weights, TensorList context, const OptionalTensor& aligned, const Tensor& codes, bool gaussian) {
  const Model m(weights, context, aligned, codes.size(1), gaussian);
  const Sizes& s = m.s;
  check_codes(codes, s);
  Tensor result = at::zeros({s.contexts, s.samples}, context[0].options());
  float* score = result.data_ptr<float>();
  const int64_t at_a_time = std::max<int64_t>(1, ROWS / s.tokens);
  over_codes(s, 1, at::get_num_threads(), [&](int64_t begin, int64_t end) {
    Desk desk(m, std::min(at_a_time, end - begin) * s.tokens, 1);
    for (int64_t first = begin; first < end; first += at_a_time) {
      const int64_t* z = codes.const_data_ptr<int64_t>() + first * s.tokens;
      const Part part = forward(m, desk, first, std::min(at_a_time, end - first), z, false);
      for (int64_t row = 0; row < part.rows(); row++) {
        float* logits = desk.logits.data() + row * s.vocab;
        const float chosen = logits[z[row]];
        const auto [top, mass] = exponentiate(logits, s.vocab);
        score[first + row / s.tokens] += chosen - top - std::log(mass);
      }
    }
  });
  return result;
}

// Gradients of Σ grad · log q(z|x), grad [B, K]: of the context's keys and values, of `aligned`, and of the weights,
// flat in their order. Nothing of a way forward is kept: it is gone once more, a few codes at a time. A context's codes
// stay on one thread, and so do its gradients.
std::vector<Tensor> log_prob_backward(
    TensorList weights, TensorList context, const OptionalTensor& aligned, const Tensor& codes, const Tensor& grad,
    bool gaussian) {
  std::vector<Tensor> grads;
  for (const Tensor& tensor : context) grads.push_back(at::zeros_like(tensor));
  if (aligned) grads.push_back(at::zeros_like(*aligned));
  const Model sizes(weights, context, aligned, codes.size(1), gaussian);
  const Sizes& s = sizes.s;
  check_codes(codes, s);
  TORCH_CHECK(
      grad.is_contiguous() && grad.sizes() == at::IntArrayRef({s.contexts, s.samples}), "the gradient must be [B, K]");
  // Every thread has gradients of its own, in so much memory together.
  const int64_t useful = std::clamp<int64_t>(s.contexts, 1, at::get_num_threads());
  const int64_t threads = std::clamp<int64_t>(LARGEST_GRADIENTS / sizes.parameters, 1, useful);
  Tensor of_weights = at::zeros({threads, sizes.parameters}, context[0].options());
  const int64_t at_a_time = std::max<int64_t>(1, ROWS / s.tokens);
  over_codes(s, std::max<int64_t>(1, s.samples), threads, [&](int64_t begin, int64_t end) {
    float* own = of_weights.data_ptr<float>() + at::get_thread_num() * sizes.parameters;
    Model m(weights, context, aligned, s.samples, gaussian, own);
    for (size_t i = 0; i < m.blocks.size(); i++) {
      m.blocks[i].key_grad = grads[2 * i].data_ptr<float>();
      m.blocks[i].value_grad = grads[2 * i + 1].data_ptr<float>();
    }
    if (aligned) m.aligned_grad = grads.back().data_ptr<float>();
    Desk desk(m, std::min(at_a_time, end - begin) * s.tokens, m.blocks.size());
    for (int64_t first = begin; first < end; first += at_a_time) {
      const int64_t* z = codes.const_data_ptr<int64_t>() + first * s.tokens;
      const Part part = forward(m, desk, first, std::min(at_a_time, end - first), z, true);
      for (int64_t row = 0; row < part.rows(); row++) {
        float* logits = desk.logits.data() + row * s.vocab;
        const float weight = grad.const_data_ptr<float>()[first + row / s.tokens];
        const float scale = -weight / exponentiate(logits, s.vocab).mass;
#pragma omp simd
        for (int64_t v = 0; v < s.vocab; v++) logits[v] *= scale;
        logits[z[row]] += weight;
      }
      float *dx = desk.x.data(), *wide = desk.wide.data();
      m.head.backward(
          desk.spare.data(), desk.raw, desk.natural, desk.logits.data(), wide, desk.dnatural, part.rows());
      std::memset(dx, 0, part.rows() * s.dim * sizeof(float));
      m.norm.backward_add(desk.normed, wide, dx, part.rows());
      for (size_t i = m.blocks.size(); i-- > 0;) {
        m.blocks[i].backward(s, part, dx, desk.tapes[i], desk.spare.data(), wide, desk.scores.data());
      }
      for (int64_t row = 0; row < part.rows(); row++) {
        const int64_t position = row % s.tokens;
        m.input_backward(dx + row * s.dim, part.context(row), position, position ? z[row - 1] : 0);
      }
    }
  });
  grads.push_back(of_weights.sum(0));
  return grads;
}

}  // namespace
}  // namespace daps

TORCH_LIBRARY(daps_rl, library) {
  library.def(
      "draw(Tensor[] weights, Tensor[] context, Tensor? aligned, Tensor? uniform, bool gaussian) -> (Tensor, Tensor)");
  library.def("log_prob(Tensor[] weights, Tensor[] context, Tensor? aligned, Tensor codes, bool gaussian) -> Tensor");
  library.def(
      "log_prob_backward(Tensor[] weights, Tensor[] context, Tensor? aligned, Tensor codes, Tensor grad, bool gaussian)"
      " -> Tensor[]");
}

TORCH_LIBRARY_IMPL(daps_rl, CPU, library) {
  library.impl("draw", daps::draw);
  library.impl("log_prob", daps::log_prob);
  library.impl("log_prob_backward", daps::log_prob_backward);
}
