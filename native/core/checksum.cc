#include "core/checksum.h"

#include <cstring>

namespace qwen3 {
namespace {

constexpr int kLanes = 8;
constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio, odd

inline uint64_t step(uint64_t lane, uint64_t word) {
  const uint64_t mixed = lane ^ word;
  return (mixed << 29 | mixed >> 35) * kMultiplier;
}

// The finaliser of MurmurHash3 (public domain): every bit of the input reaches every bit of the output.
uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccd;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53;
  return x ^ (x >> 33);
}

}  // namespace

uint64_t checksum(const void* data, size_t bytes, uint64_t seed) {
  const char* at = static_cast<const char*>(data);
  uint64_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = scramble(seed + static_cast<uint64_t>(i) + 1);
  size_t left = bytes;
  for (; left >= sizeof lanes; left -= sizeof lanes, at += sizeof lanes) {
    uint64_t words[kLanes];
    std::memcpy(words, at, sizeof words);
    for (int i = 0; i < kLanes; ++i) lanes[i] = step(lanes[i], words[i]);
  }
  if (left > 0) {
    uint64_t words[kLanes] = {};
    std::memcpy(words, at, left);
    for (int i = 0; i < kLanes; ++i) lanes[i] = step(lanes[i], words[i]);
  }
  uint64_t sum = scramble(static_cast<uint64_t>(bytes));
  for (int i = 0; i < kLanes; ++i) sum = step(sum, scramble(lanes[i]));
  return scramble(sum);
}

}  // namespace qwen3
