#include "cuda/cache.h"

#include "core/checked.h"

namespace qwen3::cuda {

int64_t DeviceCache::block_bytes(const qwen3_cuda_program& p) {
  return checked_mul(checked_mul(checked_mul(p.n_layers, 2), checked_mul(p.n_kv_heads, 64)),
                     checked_mul(p.head_dim, 2));
}

DeviceCache::DeviceCache(const qwen3_cuda_program& p, int64_t n_blocks)
    : n_layers_(p.n_layers),
      n_kv_heads_(p.n_kv_heads),
      head_dim_(p.head_dim),
      n_blocks_(n_blocks),
      pools_(static_cast<size_t>(checked_mul(block_bytes(p), n_blocks))),
      stream_(create_stream()) {}

DeviceCache::~DeviceCache() {
  destroy_stream(stream_);
}

KvLayer DeviceCache::layer(int32_t i) const {
  const int64_t pool = n_blocks_ * n_kv_heads_ * head_elements();
  Bf16* keys = pools_.as<Bf16>() + 2 * i * pool;
  return {keys, keys + pool};
}

void DeviceCache::copy_block(int32_t from, int32_t to, int32_t n_positions) {
  for (int32_t i = 0; i < n_layers_; ++i) {
    const KvLayer pools = layer(i);
    for (Bf16* pool : {pools.keys, pools.values}) {
      for (int32_t head = 0; head < n_kv_heads_; ++head) {
        const auto at = [&](int32_t block) { return pool + (int64_t{block} * n_kv_heads_ + head) * head_elements(); };
        copy_on_device(stream_, at(to), at(from), static_cast<size_t>(n_positions) * head_dim_ * 2);
      }
    }
  }
}

void DeviceCache::poison_block(int32_t block) {
  const int64_t elements = n_kv_heads_ * head_elements();
  for (int32_t i = 0; i < n_layers_; ++i) {
    const KvLayer pools = layer(i);
    for (Bf16* pool : {pools.keys, pools.values}) {
      fill_bytes(stream_, pool + block * elements, 0xff, static_cast<size_t>(elements) * 2);
    }
  }
}

}  // namespace qwen3::cuda
