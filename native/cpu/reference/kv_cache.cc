#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "cpu/kv_int8.h"
#include "cpu/reference/reference.h"

namespace qwen3::reference {
namespace {

size_t pool_size(const Program& p, int64_t n_blocks) {
  const int64_t block = checked_mul(checked_mul(p.n_kv_heads, kBlockSize), p.head_dim);
  return static_cast<size_t>(checked_mul(checked_mul(p.n_layers, n_blocks), block));
}

}  // namespace

ReferenceKvCache::ReferenceKvCache(const Program& program, DType dtype, int64_t n_blocks)
    : n_blocks_(n_blocks),
      n_layers_(program.n_layers),
      n_heads_(program.n_kv_heads),
      head_dim_(program.head_dim),
      dtype_(dtype),
      keys_(pool_size(program, n_blocks)),
      values_(keys_.size()) {}

size_t ReferenceKvCache::at(int32_t layer, int32_t block, int32_t head, int64_t slot) const {
  const int64_t vector = ((layer * n_blocks_ + block) * n_heads_ + head) * kBlockSize + slot;
  return static_cast<size_t>(vector * head_dim_);
}

float* ReferenceKvCache::key(int32_t layer, const StepSequence& s, int64_t position, int32_t head) {
  return &keys_[at(layer, s.block_table[position / kBlockSize], head, position % kBlockSize)];
}

float* ReferenceKvCache::value(int32_t layer, const StepSequence& s, int64_t position, int32_t head) {
  return &values_[at(layer, s.block_table[position / kBlockSize], head, position % kBlockSize)];
}

void ReferenceKvCache::round_query(const float* from, float* to) const {
  if (dtype_ != DType::kInt8) {
    std::copy_n(from, head_dim_, to);
    return;
  }
  const float scale = round_row_s8(from, head_dim_, [to](int64_t i, int32_t q) { to[i] = static_cast<float>(q); });
  for (int32_t i = 0; i < head_dim_; ++i) to[i] *= scale;
}

void ReferenceKvCache::store(float* to, const float* from) const {
  if (dtype_ == DType::kInt8) return round_query(from, to);  // the same rounding
  for (int32_t i = 0; i < head_dim_; ++i) to[i] = round_to(dtype_, from[i]);
}

void ReferenceKvCache::copy_block(int32_t from, int32_t to, int32_t n_positions) {
  const size_t n = static_cast<size_t>(n_positions) * static_cast<size_t>(head_dim_);
  for (int32_t layer = 0; layer < n_layers_; ++layer) {
    for (int32_t head = 0; head < n_heads_; ++head) {
      std::copy_n(&keys_[at(layer, from, head, 0)], n, &keys_[at(layer, to, head, 0)]);
      std::copy_n(&values_[at(layer, from, head, 0)], n, &values_[at(layer, to, head, 0)]);
    }
  }
}

void ReferenceKvCache::poison_block(int32_t block) {
  const size_t n = static_cast<size_t>(n_heads_) * kBlockSize * static_cast<size_t>(head_dim_);
  for (int32_t layer = 0; layer < n_layers_; ++layer) {
    std::fill_n(&keys_[at(layer, block, 0, 0)], n, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(&values_[at(layer, block, 0, 0)], n, std::numeric_limits<float>::quiet_NaN());
  }
}

}  // namespace qwen3::reference
