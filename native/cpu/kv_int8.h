#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

namespace qwen3 {

// How a row of K or V of one head becomes s8: a scale of its own, largest magnitude / 127, so that what is stored never
// changes when later positions join its block. Writes value i of the row, in [-127, 127], by put(i, value) and returns
// the scale: 0 for a row whose largest magnitude is below 2^-100, NaN for one that holds a NaN or an infinity (its
// values are then 0).
template <class Put>
inline float round_row_s8(const float* row, int64_t n, Put&& put) {
  uint32_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, row + i, sizeof bits);
    bits &= 0x7fffffffu;
    top = bits > top ? bits : top;
  }
  float largest;
  std::memcpy(&largest, &top, sizeof largest);
  const bool finite = top < 0x7f800000u, counts = finite && largest >= 0x1p-100f;
  const float inverse = counts ? 127.0f / largest : 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even.
    const float nearest = counts ? (row[i] * inverse + 12582912.0f) - 12582912.0f : 0.0f;
    put(i, static_cast<int32_t>(nearest));
  }
  return !finite ? std::numeric_limits<float>::quiet_NaN() : counts ? largest / 127.0f : 0.0f;
}

}  // namespace qwen3
