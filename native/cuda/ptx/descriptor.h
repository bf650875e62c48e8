#pragma once

// Included by ptx.h, after the primitives.

namespace qwen3::cuda {

// The matrix descriptor of wgmma (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout", matrix
// descriptor): start, leading and stride byte offset in units of 16 bytes, swizzle mode in the top two bits.
QWEN3_DEVICE uint64_t matrix_descriptor(uint32_t shared_address, int leading_bytes, int stride_bytes, Swizzle swizzle) {
  const uint64_t mode = swizzle == Swizzle::kNone ? 0 : 4 - static_cast<uint64_t>(swizzle);  // 128, 64, 32: 1, 2, 3
  return static_cast<uint64_t>((shared_address & 0x3ffff) >> 4) | (static_cast<uint64_t>(leading_bytes >> 4) << 16) |
         (static_cast<uint64_t>(stride_bytes >> 4) << 32) | (mode << 62);
}

QWEN3_DEVICE float bf16_low(uint32_t pair) {
  return bits_as_f32(pair << 16);
}
QWEN3_DEVICE float bf16_high(uint32_t pair) {
  return bits_as_f32(pair & 0xffff0000u);
}
QWEN3_DEVICE float bf16_value(Bf16 bits) {
  return bits_as_f32(static_cast<uint32_t>(bits) << 16);
}

}  // namespace qwen3::cuda
