#pragma once

#include <cstdint>

#include "cuda/ptx/types.h"

namespace qwen3::cuda::emulate {

// What a TensorMap holds on the host.
struct EmulatedTensorMap {
  static constexpr uint64_t kMagic = 0x71336d61705f3031u;
  uint64_t magic = 0;
  const void* base = nullptr;
  uint64_t size[3] = {1, 1, 1}, stride[2] = {0, 0};
  uint32_t box[3] = {1, 1, 1}, rank = 2;
  Swizzle swizzle = Swizzle::kNone;
  uint32_t box_bytes() const { return box[0] * box[1] * box[2] * 2; }
};

// Address bits [4, 4 + n) ^= bits [7, 7 + n), n = 1, 2, 3 for 32, 64, 128 bytes.
inline uint32_t swizzled(uint32_t address, Swizzle swizzle) {
  const uint32_t mask = swizzle == Swizzle::k128  ? 7u
                        : swizzle == Swizzle::k64 ? 3u
                        : swizzle == Swizzle::k32 ? 1u
                                                  : 0u;
  return address ^ (((address >> 7) & mask) << 4);
}

EmulatedTensorMap read_tensor_map(const TensorMap& map);

}  // namespace qwen3::cuda::emulate
