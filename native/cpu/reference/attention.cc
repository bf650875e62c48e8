#include <algorithm>
#include <cmath>

#include "core/math.h"
#include "cpu/reference/reference.h"

namespace qwen3::reference {
namespace {

// One query over the keys of positions [0, n_keys): out = sum_j softmax_j(q . k_j / sqrt(head_dim)) v_j
void attend(const float* q, int32_t layer, const StepSequence& s, int64_t n_keys, int32_t kv_head, int32_t head_dim,
            ReferenceKvCache& cache, std::vector<float>& weights, float* out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  weights.resize(static_cast<size_t>(n_keys));
  for (int64_t j = 0; j < n_keys; ++j) weights[j] = dot(q, cache.key(layer, s, j, kv_head), head_dim) * scale;
  const float largest = *std::max_element(weights.begin(), weights.end());
  std::fill_n(out, head_dim, 0.0f);
  float total = 0;
  for (int64_t j = 0; j < n_keys; ++j) {
    const float weight = exp_f32(weights[j] - largest);
    const float* v = cache.value(layer, s, j, kv_head);
    total += weight;
    for (int32_t i = 0; i < head_dim; ++i) out[i] += weight * v[i];
  }
  for (int32_t i = 0; i < head_dim; ++i) out[i] /= total;
}

}  // namespace

// Causal grouped-query attention: query head h reads key/value head h / (n_q_heads / n_kv_heads), positions up to its
// own.
void attention(const Program& program, int32_t layer, const Activation& q, const StepBatch& batch,
               ReferenceKvCache& cache, Activation& out) {
  const int32_t d = program.head_dim, group = program.n_q_heads / program.n_kv_heads;
  std::vector<float> weights, query(static_cast<size_t>(d));
  for (const StepSequence& s : batch.sequences) {
    for (int32_t i = 0; i < s.n_rows; ++i) {
      const int64_t r = s.row_begin + i, n_keys = int64_t{s.position_begin} + i + 1;
      for (int32_t h = 0; h < program.n_q_heads; ++h) {
        float* to = out.row(r) + h * d;
        cache.round_query(q.row(r) + h * d, query.data());
        attend(query.data(), layer, s, n_keys, h / group, d, cache, weights, to);
        for (int32_t j = 0; j < d; ++j) to[j] = round_to(out.dtype, to[j]);
      }
    }
  }
}

}  // namespace qwen3::reference
