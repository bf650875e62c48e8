#include "cpu/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/checked.h"
#include "core/status.h"

namespace qwen3::cpu {
namespace {

int64_t round_up_16(int64_t n) {
  return (n + 15) / 16 * 16;
}

void check_dtype(DType dtype) {
  if (dtype == DType::kF16) {
    throw Error(ErrorCode::kUnsupported, "the CPU keeps its KV cache as f32 or bf16, not f16", "kvCache");
  }
}

}  // namespace

int64_t CpuKvCache::block_bytes(const Program& program, DType dtype) {
  check_dtype(dtype);
  const int64_t heads = checked_mul(program.n_layers, program.n_kv_heads);
  const int64_t row = program.head_dim + round_up_16(program.head_dim);
  return checked_mul(checked_mul(heads, row), kKeys * dtype_bytes(dtype));
}

CpuKvCache::CpuKvCache(const Program& program, DType dtype, int64_t n_blocks)
    : dtype_(dtype),
      n_layers_(program.n_layers),
      n_blocks_(n_blocks),
      n_kv_heads_(program.n_kv_heads),
      head_dim_(program.head_dim),
      v_cols_(round_up_16(program.head_dim)),
      k_size_(kKeys * program.head_dim),
      v_size_(kKeys * v_cols_),
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
  uint16_t* out = reinterpret_cast<uint16_t*>(base) + block * block_stride() + slot / 2 * 2 * v_cols_ + slot % 2;
  for (int64_t i = 0; i < head_dim_; ++i) out[2 * i] = f32_to_bf16(value[i]);
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
  fill(data_.as<char>() + block * block_stride() * dtype_bytes(dtype_), block_stride());
}

}  // namespace qwen3::cpu
