#pragma once

// exp, log and what is built on them, as explicit f32 operations: each is a fixed sequence of IEEE additions,
// multiplications and bit moves, so that a scalar, a vector and a device version of the same sequence agree bit for
// bit. That needs contraction off (-ffp-contract=off; -fmad=false in CUDA) and subnormals on. Range reduction after
// Cody and Waite; polynomials of the Cephes library (S. L. Moshier, expf.c and logf.c).
//
// Largest errors found over every float (core_test.cc): exp_f32 0.991 ulp (0.751 where the result is subnormal),
// log_f32 0.83 ulp.

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define QWEN3_HOST_DEVICE __host__ __device__
#else
#define QWEN3_HOST_DEVICE
#endif

namespace qwen3 {

QWEN3_HOST_DEVICE inline float bits_to_f32(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

QWEN3_HOST_DEVICE inline uint32_t f32_to_bits(float value) {
  uint32_t out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

// 2^n for n in [-126, 127].
QWEN3_HOST_DEVICE inline float exp2_int(int32_t n) {
  return bits_to_f32(static_cast<uint32_t>(n + 127) << 23);
}

constexpr float kExpMax = 88.7228394f;   // the largest float whose exp is finite
constexpr float kExpMin = -103.972077f;  // below, exp rounds to 0

// e^x. NaN gives NaN, above kExpMax +infinity, below kExpMin 0; subnormal results are kept.
QWEN3_HOST_DEVICE inline float exp_f32(float x) {
  if (x != x) return x;
  if (x > kExpMax) return bits_to_f32(0x7f800000u);
  if (x < kExpMin) return 0.0f;
  // n = round(x / ln 2): adding 1.5 * 2^23 leaves no fraction bits.
  const float kRound = 12582912.0f;
  const float shifted = x * 1.44269504f + kRound;
  const float nf = shifted - kRound;
  const int32_t n = static_cast<int32_t>(nf);
  // r = x - n ln 2 with ln 2 in two parts; the first has so few bits that its product is exact.
  const float r = (x - nf * 0.693359375f) - nf * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // Scaled in two halves: 2^n alone is not a float at both ends of the range.
  const int32_t half = n >> 1;
  return p * exp2_int(half) * exp2_int(n - half);
}

// Natural logarithm. 0 gives -infinity, negative and NaN give NaN, +infinity stays.
QWEN3_HOST_DEVICE inline float log_f32(float x) {
  if (x != x || x < 0.0f) return bits_to_f32(0x7fc00000u);
  if (x == 0.0f) return bits_to_f32(0xff800000u);
  uint32_t bits = f32_to_bits(x);
  if (bits == 0x7f800000u) return x;
  int32_t e = 0;
  if (bits < 0x00800000u) {  // subnormal: scale by 2^23
    bits = f32_to_bits(x * 8388608.0f);
    e = -23;
  }
  // x = m 2^e with m in [sqrt(1/2), sqrt(2))
  e += static_cast<int32_t>(bits >> 23) - 126;
  float m = bits_to_f32((bits & 0x007fffffu) | 0x3f000000u);
  if (m < 0.707106781f) {
    e -= 1;
    m = m + m;
  }
  m = m - 1.0f;
  const float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m + -1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m + -1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m + -1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m + -2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float ef = static_cast<float>(e);
  const float tail = (p * m * z + ef * -2.12194440e-4f) - 0.5f * z;
  return (m + tail) + ef * 0.693359375f;
}

// x / (1 + e^-x)
QWEN3_HOST_DEVICE inline float silu_f32(float x) {
  return x / (1.0f + exp_f32(-x));
}

}  // namespace qwen3
