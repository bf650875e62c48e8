#include "cuda/emulate/tensor_map.h"

#include <cstring>

#include "cuda/emulate/error.h"
#include "cuda/emulate/global_memory.h"

namespace qwen3::cuda::emulate {

static_assert(sizeof(EmulatedTensorMap) <= sizeof(TensorMap));

EmulatedTensorMap read_tensor_map(const TensorMap& map) {
  EmulatedTensorMap out;
  std::memcpy(static_cast<void*>(&out), &map, sizeof out);
  return out;
}

}  // namespace qwen3::cuda::emulate

namespace qwen3::cuda {

using emulate::EmulatedTensorMap;
using emulate::EmulationError;
using emulate::Fault;

// The limits of cuTensorMapEncodeTiled (CUDA driver API, tensor map object management).
TensorMap encode_tensor_map(const TensorShape& shape) {
  const auto refuse = [](const char* what) { throw EmulationError(Fault::kDescriptor, what); };
  if (reinterpret_cast<uintptr_t>(shape.base) % 16 != 0) refuse("tensor map: base not 16-byte aligned");
  if (shape.rank < 2 || shape.rank > 3) refuse("tensor map: rank");
  EmulatedTensorMap map;
  map.magic = EmulatedTensorMap::kMagic;
  map.base = shape.base, map.rank = static_cast<uint32_t>(shape.rank), map.swizzle = shape.swizzle;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.size[i] == 0 || shape.size[i] > (uint64_t{1} << 32)) refuse("tensor map: size");
    if (shape.box[i] == 0 || shape.box[i] > 256) refuse("tensor map: box beyond 256 elements");
    map.size[i] = shape.size[i], map.box[i] = shape.box[i];
    if (i > 0) {
      if (shape.stride[i - 1] % 16 != 0) refuse("tensor map: stride not a multiple of 16 bytes");
      map.stride[i - 1] = shape.stride[i - 1];
    }
  }
  const uint32_t inner = shape.box[0] * 2;
  if (inner % 16 != 0) refuse("tensor map: inner box not a multiple of 16 bytes");
  const uint32_t span = shape.swizzle == Swizzle::kNone ? 1u << 30 : 16u << static_cast<uint32_t>(shape.swizzle);
  if (inner > span) refuse("tensor map: inner box wider than the swizzle");
  TensorMap out{};
  std::memcpy(&out, static_cast<const void*>(&map), sizeof map);
  return out;
}

}  // namespace qwen3::cuda
