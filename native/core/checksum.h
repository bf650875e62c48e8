#pragma once

#include <cstddef>
#include <cstdint>

namespace qwen3 {

// A 64-bit checksum against accidents (a flipped bit, a lost block), not against an adversary. Eight lanes of 64 bits,
// word w of lane l being the (8 w + l)-th of the input:  lane = rotl(lane ^ word, 29) * odd constant.  Each step is a
// bijection of the lane and of the word, so a change within one word, or in one word of every lane, never goes
// unnoticed; anything else does with a chance of about 2^-64. Eight lanes hide the multiplication's latency: faster
// than memory on one core. Words are read little endian; the length is part of the sum.
uint64_t checksum(const void* data, size_t bytes, uint64_t seed = 0);

}  // namespace qwen3
