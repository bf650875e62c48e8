#include <cmath>

#include "cpu/reference/reference.h"

namespace qwen3::reference {
namespace {

// Rotate-half RoPE of the normalised head: with h = head_dim / 2,
//   out[i] = n[i] cos[i] - n[i + h] sin[i],  out[i + h] = n[i + h] cos[i] + n[i] sin[i],  n = rms_norm(in)
void norm_and_rotate(const float* in, const ReferenceWeight& weight, float eps, const float* cos, const float* sin,
                     int32_t head_dim, float* out) {
  const int32_t half = head_dim / 2;
  const float scale = 1.0f / std::sqrt(dot(in, in, head_dim) / static_cast<float>(head_dim) + eps);
  for (int32_t i = 0; i < half; ++i) {
    const float a = in[i] * scale * weight.values[i];
    const float b = in[i + half] * scale * weight.values[i + half];
    out[i] = a * cos[i] - b * sin[i];
    out[i + half] = b * cos[i] + a * sin[i];
  }
}

}  // namespace

// Angles are formed in f64: position * inv_freq exceeds what f32 can tell apart long before the context ends.
RopeRows rope_rows(const Program& program, const StepBatch& batch) {
  const size_t half = static_cast<size_t>(program.head_dim / 2);
  RopeRows rope;
  rope.cos.reserve(batch.tokens.size() * half);
  rope.sin.reserve(batch.tokens.size() * half);
  for (const StepSequence& s : batch.sequences) {
    const Program::RopeTable& table = program.rope_tables[static_cast<size_t>(s.rope_table)];
    for (int32_t i = 0; i < s.n_rows; ++i) {
      for (const double inv_freq : table.inv_freq) {
        const double angle = (s.position_begin + i) * inv_freq;
        rope.cos.push_back(static_cast<float>(std::cos(angle) * table.factor));
        rope.sin.push_back(static_cast<float>(std::sin(angle) * table.factor));
      }
    }
  }
  return rope;
}

void qk_norm_rope_append(const Program& program, const QkNormRopeAppendOp& op, const Activation& qkv,
                         const ReferenceWeight& q_norm, const ReferenceWeight& k_norm, const RopeRows& rope,
                         const StepBatch& batch, ReferenceKvCache& cache, Activation& q_out) {
  const int32_t d = program.head_dim, n_q = program.n_q_heads, n_kv = program.n_kv_heads;
  std::vector<float> rotated(static_cast<size_t>(d));
  for (const StepSequence& s : batch.sequences) {
    for (int32_t i = 0; i < s.n_rows; ++i) {
      const int64_t r = s.row_begin + i, position = s.position_begin + i;
      const float* cos = rope.cos.data() + r * (d / 2);
      const float* sin = rope.sin.data() + r * (d / 2);
      const float* q = qkv.row(r);
      const float* k = q + int64_t{n_q} * d;
      const float* v = k + int64_t{n_kv} * d;
      for (int32_t h = 0; h < n_q; ++h) {
        norm_and_rotate(q + h * d, q_norm, op.eps, cos, sin, d, rotated.data());
        for (int32_t j = 0; j < d; ++j) q_out.row(r)[h * d + j] = round_to(q_out.dtype, rotated[j]);
      }
      for (int32_t h = 0; h < n_kv; ++h) {
        norm_and_rotate(k + h * d, k_norm, op.eps, cos, sin, d, rotated.data());
        cache.store(cache.key(op.layer, s, position, h), rotated.data());
        cache.store(cache.value(op.layer, s, position, h), v + h * d);
      }
    }
  }
}

}  // namespace qwen3::reference
