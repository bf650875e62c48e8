#pragma once

// The element types of GGUF files that the comparison needs, from the format's definition. Encoding follows the
// searches that the format's own tools use for each type, so that the peer is given weights as good as its users have.

#include <cstdint>
#include <string_view>

namespace qwen3::bench {

// Values are the type ids of GGUF tensor infos.
//   Q4_0  32 elements: f16 d, then 4 bits q;  x = d (q - 8);  element i in the low half of byte i, i + 16 in the high
//   half Q5_0  32 elements: f16 d, 32 high bits, 4 low bits as Q4_0;  x = d (q - 16) Q8_0  32 elements: f16 d, then
//   signed bytes;  x = d q Q4_K  256 elements in 8 groups of 32: f16 d, f16 m, 6-bit scale s and minimum t a group;  x
//   = d s q - m t Q6_K  256 elements in 16 groups of 16: 6-bit q, signed byte s a group, f16 d;  x = d s (q - 32)
enum class GgufType : uint32_t {
  kF32 = 0,
  kQ4_0 = 2,
  kQ5_0 = 6,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30,
};

// "F32", "BF16", "Q8_0", ...; throws Error(kInvalidArgument) for other names.
GgufType gguf_type(std::string_view name);
int64_t gguf_block_elements(GgufType type);
int64_t gguf_block_bytes(GgufType type);

// n elements, a multiple of the block. Finite values.
void gguf_encode(GgufType type, const float* from, int64_t n, void* to);
void gguf_decode(GgufType type, const void* from, int64_t n, float* to);

}  // namespace qwen3::bench
