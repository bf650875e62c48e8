#include "cpu/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/checked.h"
#include "core/status.h"
#include "cpu/kv_int8.h"

namespace qwen3::cpu {
namespace {

int64_t round_up_16(int64_t n) {
  return (n + 15) / 16 * 16;
}

void check_dtype(DType dtype) {
  if (dtype == DType::kF16) {
    throw Error(ErrorCode::kUnsupported, "the CPU keeps its KV cache as f32, bf16 or int8, not f16", "kvCache");
  }
}

// Elements that one head's keys and values of a block take; scales of an int8 cache count as four each.
struct HeadSize {
  int64_t k, v;
};
HeadSize head_size(int64_t head_dim, DType dtype) {
  const int64_t v_cols = round_up_16(head_dim);
  if (dtype != DType::kInt8) return {kKeys * head_dim, kKeys * v_cols};
  const int64_t scales = kKeys * static_cast<int64_t>(sizeof(float));
  return {kKeys * ((head_dim + 3) / 4 * 4) + scales, kKeys * v_cols + scales};
}

}  // namespace

int64_t CpuKvCache::block_bytes(const Program& program, DType dtype) {
  check_dtype(dtype);
  const int64_t heads = checked_mul(program.n_layers, program.n_kv_heads);
  const HeadSize size = head_size(program.head_dim, dtype);
  return checked_mul(checked_mul(heads, size.k + size.v), dtype_bytes(dtype));
}

CpuKvCache::CpuKvCache(const Program& program, DType dtype, int64_t n_blocks)
    : dtype_(dtype),
      n_layers_(program.n_layers),
      n_blocks_(n_blocks),
      n_kv_heads_(program.n_kv_heads),
      head_dim_(program.head_dim),
      v_cols_(round_up_16(program.head_dim)),
      k_size_(head_size(program.head_dim, dtype).k),
      v_size_(head_size(program.head_dim, dtype).v),
      data_(checked_mul(block_bytes(program, dtype), n_blocks), true) {}

bool CpuKvCache::fits(const Program& program) const {
  return n_layers_ == program.n_layers && n_kv_heads_ == program.n_kv_heads && head_dim_ == program.head_dim;
}

void CpuKvCache::check_block(int32_t block) const {
  if (block < 0 || block >= n_blocks_) {
    throw Error(ErrorCode::kInvalidArgument, "block " + std::to_string(block) + " is outside the KV cache of " +
                                                 std::to_string(n_blocks_) + " blocks");
  }
}

void CpuKvCache::write_key(int32_t layer, int64_t kv_head, int32_t block, int32_t slot, const float* key) const {
  char* base = keys(layer, kv_head);
  if (dtype_ == DType::kF32) {
    float* out = reinterpret_cast<float*>(base) + block * block_stride() + slot;
    for (int64_t i = 0; i < head_dim_; ++i) out[i * kKeys] = key[i];
    return;
  }
  if (dtype_ == DType::kInt8) {
    uint8_t* out = reinterpret_cast<uint8_t*>(base) + block * block_stride() + 4 * slot;
    const auto put = [out](int64_t i, int32_t q) { out[i / 4 * 4 * kKeys + i % 4] = static_cast<uint8_t>(q + 128); };
    key_scales(layer, kv_head, block)[slot] = round_row_s8(key, head_dim_, put);
    for (int64_t i = head_dim_; i % 4; ++i) put(i, 0);
    return;
  }
  uint16_t* out = reinterpret_cast<uint16_t*>(base) + block * block_stride() + 2 * slot;
  for (int64_t i = 0; i < head_dim_; i += 2) {
    out[i * kKeys] = f32_to_bf16(key[i]);
    out[i * kKeys + 1] = f32_to_bf16(key[i + 1]);
  }
}

void CpuKvCache::write_value(int32_t layer, int64_t kv_head, int32_t block, int32_t slot, const float* value) const {
  char* base = values(layer, kv_head);
  if (dtype_ == DType::kF32) {
    float* out = reinterpret_cast<float*>(base) + block * block_stride() + slot * v_cols_;
    std::copy_n(value, head_dim_, out);
    return;
  }
  if (dtype_ == DType::kInt8) {
    int8_t* out = reinterpret_cast<int8_t*>(base) + block * block_stride() + slot * v_cols_;
    const auto put = [out](int64_t i, int32_t q) { out[i] = static_cast<int8_t>(q); };
    value_scales(layer, kv_head, block)[slot] = round_row_s8(value, head_dim_, put);
    return;
  }
  uint16_t* out = reinterpret_cast<uint16_t*>(base) + block * block_stride() + slot / 2 * 2 * v_cols_ + slot % 2;
  for (int64_t i = 0; i < head_dim_; ++i) out[2 * i] = f32_to_bf16(value[i]);
}

void CpuKvCache::copy_int8(int32_t layer, int64_t kv_head, int32_t from, int32_t to, int32_t n_positions) const {
  const size_t n = static_cast<size_t>(n_positions);
  const char* k_in = keys(layer, kv_head) + from * block_stride();
  char* k_out = keys(layer, kv_head) + to * block_stride();
  for (int64_t i = 0; i < head_dim_; i += 4) std::memmove(k_out + i * kKeys, k_in + i * kKeys, 4 * n);
  const char* v_in = values(layer, kv_head) + from * block_stride();
  std::memmove(values(layer, kv_head) + to * block_stride(), v_in, n * static_cast<size_t>(v_cols_));
  std::memmove(key_scales(layer, kv_head, to), key_scales(layer, kv_head, from), n * sizeof(float));
  std::memmove(value_scales(layer, kv_head, to), value_scales(layer, kv_head, from), n * sizeof(float));
}

void CpuKvCache::copy_block(int32_t from, int32_t to, int32_t n_positions) {
  check_block(from), check_block(to);
  if (n_positions < 0 || n_positions > kKeys) {
    throw Error(ErrorCode::kInvalidArgument,
                "copy_block: n_positions must be 0 to 64, received " + std::to_string(n_positions));
  }
  const int64_t bytes = dtype_bytes(dtype_), depth = dtype_ == DType::kBF16 ? 2 : 1;
  for (int32_t layer = 0; layer < n_layers_; ++layer) {
    for (int64_t head = 0; head < n_kv_heads_; ++head) {
      if (dtype_ == DType::kInt8) {
        copy_int8(layer, head, from, to, n_positions);
        continue;
      }
      const char* k_in = keys(layer, head) + from * block_stride() * bytes;
      char* k_out = keys(layer, head) + to * block_stride() * bytes;
      for (int64_t step = 0; step < head_dim_ / depth; ++step) {
        const int64_t offset = step * kKeys * depth * bytes;
        std::memmove(k_out + offset, k_in + offset, static_cast<size_t>(n_positions * depth * bytes));
      }
      const char* v_in = values(layer, head) + from * block_stride() * bytes;
      char* v_out = values(layer, head) + to * block_stride() * bytes;
      const int64_t whole = n_positions / depth * v_cols_ * depth * bytes;
      std::memmove(v_out, v_in, static_cast<size_t>(whole));
      if (n_positions % depth == 0) continue;
      for (int64_t i = 0; i < head_dim_; ++i) {  // the even half of the last pair
        std::memcpy(v_out + whole + i * 2 * bytes, v_in + whole + i * 2 * bytes, static_cast<size_t>(bytes));
      }
    }
  }
}

void CpuKvCache::poison_block(int32_t block) {
  check_block(block);
  const auto fill = [&](char* out, int64_t n) {
    if (dtype_ == DType::kF32) {
      std::fill_n(reinterpret_cast<uint32_t*>(out), n, 0x7fc00000u);
    } else {
      std::fill_n(reinterpret_cast<uint16_t*>(out), n, static_cast<uint16_t>(0x7fc0));
    }
  };
  if (dtype_ == DType::kInt8) {
    for (int32_t layer = 0; layer < n_layers_; ++layer) {
      for (int64_t head = 0; head < n_kv_heads_; ++head) {
        std::memset(keys(layer, head) + block * block_stride(), 0x7f, static_cast<size_t>(k_size_ + v_size_));
        std::fill_n(reinterpret_cast<uint32_t*>(key_scales(layer, head, block)), kKeys, 0x7fc00000u);
        std::fill_n(reinterpret_cast<uint32_t*>(value_scales(layer, head, block)), kKeys, 0x7fc00000u);
      }
    }
    return;
  }
  fill(data_.as<char>() + block * block_stride() * dtype_bytes(dtype_), block_stride());
}

}  // namespace qwen3::cpu
