#pragma once

#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "ops/backend.h"

namespace qwen3::cpu {

// One head's block contiguous, in the layout that attention multiplies without moving anything:
//   [n_blocks][n_layers][n_kv_heads] of K [head_dim / depth][64][depth], then V [64 / depth][v_cols][depth]
// depth is 2 for bf16, 1 for f32; v_cols is head_dim rounded up to 16. int8: as kernels.h says, K's scales behind K and
// V's behind V; rounded once, when a position is appended. All layers of a block lie together, so that huge
// pages hold what is in use and no more. Pages are committed when first written.
class CpuKvCache : public KvCache {
 public:
  CpuKvCache(const Program& program, DType dtype, int64_t n_blocks);

  void copy_block(int32_t from, int32_t to, int32_t n_positions) override;
  void poison_block(int32_t block) override;

  DType dtype() const { return dtype_; }
  int64_t n_blocks() const { return n_blocks_; }
  bool fits(const Program& program) const;
  // Of block 0; add block * block_stride() elements (bytes for int8).
  char* keys(int32_t layer, int64_t kv_head) const {
    return data_.as<char>() + (layer * n_kv_heads_ + kv_head) * (k_size_ + v_size_) * dtype_bytes(dtype_);
  }
  char* values(int32_t layer, int64_t kv_head) const { return keys(layer, kv_head) + k_size_ * dtype_bytes(dtype_); }
  int64_t block_stride() const { return n_layers_ * n_kv_heads_ * (k_size_ + v_size_); }  // elements
  int64_t v_cols() const { return v_cols_; }

  // Writes one head's K (f32, already rotated) and V at slot [0, 64) of a block.
  void write_key(int32_t layer, int64_t kv_head, int32_t block, int32_t slot, const float* key) const;
  void write_value(int32_t layer, int64_t kv_head, int32_t block, int32_t slot, const float* value) const;

  static int64_t block_bytes(const Program& program, DType dtype);

 private:
  void check_block(int32_t block) const;
  // Where the s8 values of a block's keys and values end: [64] f32.
  float* key_scales(int32_t layer, int64_t kv_head, int32_t block) const {
    return reinterpret_cast<float*>(keys(layer, kv_head) + block * block_stride() + k_size_) - kKeys;
  }
  float* value_scales(int32_t layer, int64_t kv_head, int32_t block) const {
    return reinterpret_cast<float*>(values(layer, kv_head) + block * block_stride() + v_size_) - kKeys;
  }
  void copy_int8(int32_t layer, int64_t kv_head, int32_t from, int32_t to, int32_t n_positions) const;

  DType dtype_;
  int64_t n_layers_, n_blocks_, n_kv_heads_, head_dim_, v_cols_, k_size_, v_size_;
  Buffer data_;
};

}  // namespace qwen3::cpu
