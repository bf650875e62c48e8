#pragma once

#include "cuda/kernels.h"
#include "cuda/library.h"
#include "cuda/runtime.h"

namespace qwen3::cuda {

// K and V pools of every layer, bf16 [n_blocks, n_kv_heads, 64, head_dim] each. It owns the stream of everything that
// touches it: steps, copies and poison are ordered by being there.
class DeviceCache {
 public:
  DeviceCache(const qwen3_cuda_program& program, int64_t n_blocks);
  ~DeviceCache();
  DeviceCache(const DeviceCache&) = delete;
  DeviceCache& operator=(const DeviceCache&) = delete;
  void copy_block(int32_t from, int32_t to, int32_t n_positions);
  void poison_block(int32_t block);
  KvLayer layer(int32_t i) const;
  int64_t n_blocks() const { return n_blocks_; }
  Stream stream() const { return stream_; }
  static int64_t block_bytes(const qwen3_cuda_program& program);

 private:
  int64_t head_elements() const { return int64_t{64} * head_dim_; }
  int32_t n_layers_, n_kv_heads_, head_dim_;
  int64_t n_blocks_;
  DeviceBuffer pools_;  // [n_layers, 2, n_blocks, n_kv_heads, 64, head_dim]
  Stream stream_;
};

}  // namespace qwen3::cuda
