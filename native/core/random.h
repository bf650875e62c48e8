#pragma once

// Counter-based random numbers: a value is a pure function of (key, counter), so any element can be made alone, in any
// order, on any device. Philox 4x32 of J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011); 10 rounds is their recommended safety margin, 7 rounds the least that passes BigCrush.

#include <cstdint>
#include <string_view>

#if defined(__CUDACC__)
#define QWEN3_RANDOM_FN __host__ __device__
#else
#define QWEN3_RANDOM_FN
#endif

namespace qwen3 {

struct Philox4 {
  uint32_t v[4];
};

template <int kRounds = 10>
QWEN3_RANDOM_FN inline Philox4 philox4x32(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter.v[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter.v[2];
    counter = Philox4{{static_cast<uint32_t>(p1 >> 32) ^ counter.v[1] ^ key0, static_cast<uint32_t>(p1),
                       static_cast<uint32_t>(p0 >> 32) ^ counter.v[3] ^ key1, static_cast<uint32_t>(p0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Four 32-bit words for a 64-bit key and two 64-bit counters.
QWEN3_RANDOM_FN inline Philox4 random_words(uint64_t key, uint64_t high, uint64_t low) {
  const Philox4 counter{{static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high),
                         static_cast<uint32_t>(high >> 32)}};
  return philox4x32<10>(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

// Uniform in [0, 1), a multiple of 2^-24: exact in f32.
QWEN3_RANDOM_FN inline float uniform_f32(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

// FNV-1a, 64 bits: names a tensor in a counter.
inline uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace qwen3
