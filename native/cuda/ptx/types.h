#pragma once

// What kernels, launchers and the host share.

#include <cstdint>

// CUDA's own: host code needs no CUDA header.
struct CUstream_st;
struct CUevent_st;
struct CUgraphExec_st;

namespace qwen3::cuda {

using Stream = CUstream_st*;  // null in the emulation: at once

struct Dim3 {
  int x = 1, y = 1, z = 1;
};

// Global memory and shared memory move best in 8 or 16 bytes.
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};
struct alignas(8) Words2 {
  uint32_t x, y;
};
struct alignas(16) Words4 {
  uint32_t x, y, z, w;
};

// A bf16 number as stored. Arithmetic is f32 always.
using Bf16 = uint16_t;

// The order of 16-byte chunks within rows of 32, 64 or 128 bytes of shared memory (PTX ISA, "Swizzling modes"):
// bits 4.. of the address are XORed with bits 7.. .
enum class Swizzle : uint8_t { kNone, k32, k64, k128 };

// A tensor for TMA: CUtensorMap on a device, the emulation's own fields on the host. Passed to kernels by value.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

struct TensorShape {
  const void* base = nullptr;  // bf16, 16-byte aligned
  int rank = 2;
  uint64_t size[3] = {1, 1, 1};  // elements, innermost first
  uint64_t stride[2] = {0, 0};   // bytes from one index to the next of dimensions 1 and 2; multiples of 16
  uint32_t box[3] = {1, 1, 1};   // elements that one instruction moves
  Swizzle swizzle = Swizzle::kNone;
};

// Throws Error(kInternal) for a shape that the driver refuses (emulated: EmulationError kDescriptor).
TensorMap encode_tensor_map(const TensorShape& shape);

}  // namespace qwen3::cuda
