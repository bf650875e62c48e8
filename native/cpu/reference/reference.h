#pragma once

// The scalar f32 backend: each operation as its formula reads, one row at a time, so that a row's bits depend on its
// tokens and positions alone. Every fast path is held against it. Storage is f32 throughout; a value whose contract
// type is bf16 is rounded to bf16 and kept in an f32.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "ops/backend.h"

namespace qwen3::reference {

inline float round_to(DType dtype, float value) {
  return dtype == DType::kBF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

// Sum of a[i] * b[i] in one order for any caller: 16 running sums (so that the compiler may use vector registers), then
// pairwise.
inline float dot(const float* a, const float* b, int64_t n) {
  constexpr int kSums = 16;
  std::array<float, kSums> sum{};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int s = 0; s < kSums; ++s) sum[s] += a[i + s] * b[i + s];
  }
  for (int s = 0; i < n; ++i, ++s) sum[s] += a[i] * b[i];
  for (int width = kSums / 2; width > 0; width /= 2) {
    for (int s = 0; s < width; ++s) sum[s] += sum[s + width];
  }
  return sum[0];
}

struct ReferenceWeight final : Weight {
  std::vector<float> values;  // [rows, cols]; integer formats: the values that these stand for
  int64_t group = 0;          // k that share a scale in integer formats, else 0
  const float* row(int64_t r) const { return values.data() + r * cols; }
};

struct Activation {
  std::vector<float> values;  // [max_rows, cols]
  int64_t cols = 0;
  DType dtype = DType::kF32;
  float* row(int64_t r) { return values.data() + r * cols; }
  const float* row(int64_t r) const { return values.data() + r * cols; }
};

// Rows of x as a product with `weight` sees them: as they are, or rounded to eight bits with one scale per group.
std::vector<float> product_input(const float* x, int64_t n_rows, const ReferenceWeight& weight);

class ReferenceKvCache final : public KvCache {
 public:
  ReferenceKvCache(const Program& program, DType dtype, int64_t n_blocks);
  void copy_block(int32_t from, int32_t to, int32_t n_positions) override;
  void poison_block(int32_t block) override;

  int64_t n_blocks() const { return n_blocks_; }
  // K and V of one position and head, [head_dim].
  float* key(int32_t layer, const StepSequence& s, int64_t position, int32_t head);
  float* value(int32_t layer, const StepSequence& s, int64_t position, int32_t head);
  void store(float* to, const float* from) const;  // rounds to the cache's element type
  // The query as a product with these keys sees it: rounded to eight bits with one scale when the keys are.
  void round_query(const float* from, float* to) const;

 private:
  size_t at(int32_t layer, int32_t block, int32_t head, int64_t slot) const;
  int64_t n_blocks_;
  int32_t n_layers_, n_heads_, head_dim_;
  DType dtype_;
  std::vector<float> keys_, values_;  // [n_layers, n_blocks, n_kv_heads, 64, head_dim]
};

// cos and sin of every row of a step, [n_rows, head_dim / 2]: the same for all layers.
struct RopeRows {
  std::vector<float> cos, sin;
};
RopeRows rope_rows(const Program& program, const StepBatch& batch);

void embed(std::span<const int32_t> tokens, const ReferenceWeight& table, Activation& out);
void rms_norm(const Activation& x, int64_t n_rows, const ReferenceWeight& weight, float eps, Activation& out);
void linear(const Activation& x, int64_t n_rows, const ReferenceWeight& weight, Epilogue epilogue, Activation& out);
void qk_norm_rope_append(const Program& program, const QkNormRopeAppendOp& op, const Activation& qkv,
                         const ReferenceWeight& q_norm, const ReferenceWeight& k_norm, const RopeRows& rope,
                         const StepBatch& batch, ReferenceKvCache& cache, Activation& q_out);
void attention(const Program& program, int32_t layer, const Activation& q, const StepBatch& batch,
               ReferenceKvCache& cache, Activation& out);

struct Expert {
  const ReferenceWeight* gate_up;
  const ReferenceWeight* down;
};
// counts: [n_experts], incremented by the rows routed to each.
void moe(const MoeOp& op, const Activation& x, int64_t n_rows, const ReferenceWeight& router,
         std::span<const Expert> experts, Activation& out, int64_t* counts);
// out: [rows.size(), vocab]
void logits(const Activation& x, std::span<const int32_t> rows, const ReferenceWeight& weight, float* out);

}  // namespace qwen3::reference
