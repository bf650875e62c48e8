#include "gguf_formats.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/dtype.h"
#include "core/status.h"

namespace qwen3::bench {
namespace {

constexpr int kLanes = 16;
typedef float V __attribute__((vector_size(4 * kLanes)));

inline V load(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store(float* to, V v) {
  std::memcpy(to, &v, sizeof v);
}
inline V all(float x) {
  return V{} + x;
}
inline V absolute(V v) {
  return v < 0.0f ? -v : v;
}
inline V clamp(V v, float low, float high) {
  v = v < low ? all(low) : v;
  return v > high ? all(high) : v;
}
// To the nearest whole number, ties to even; |v| < 2^22.
inline V nearest(V v) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: no fraction bits are left beside it
  return (v + kMagic) - kMagic;
}
inline float sum(V v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

inline float nearest(float x) {
  return std::nearbyint(x);
}

void put_f16(uint8_t* to, float value) {
  const uint16_t bits = f32_to_f16(value);
  std::memcpy(to, &bits, 2);
}
float get_f16(const uint8_t* from) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  return f16_to_f32(bits);
}

// The element of the largest magnitude, with its sign; the first of equals.
float extreme(const float* x, int n) {
  float best = 0;
  for (int i = 0; i < n; ++i)
    if (std::fabs(x[i]) > std::fabs(best)) best = x[i];
  return best;
}

// Symmetric, `half` steps to each side: the extreme element is mapped to -half exactly.
void encode_signed(const float* x, int half, float* d, uint8_t q[32]) {
  *d = extreme(x, 32) / -static_cast<float>(half);
  const float inverse = *d != 0 ? 1.0f / *d : 0.0f;
  for (int i = 0; i < 32; ++i) {
    const int level = static_cast<int>(x[i] * inverse + static_cast<float>(half) + 0.5f);
    q[i] = static_cast<uint8_t>(std::clamp(level, 0, 2 * half - 1));
  }
}

void encode_q4_0(const float* x, uint8_t* to) {
  float d;
  uint8_t q[32];
  encode_signed(x, 8, &d, q);
  put_f16(to, d);
  for (int i = 0; i < 16; ++i) to[2 + i] = static_cast<uint8_t>(q[i] | (q[i + 16] << 4));
}
void decode_q4_0(const uint8_t* from, float* x) {
  const float d = get_f16(from);
  for (int i = 0; i < 16; ++i) {
    x[i] = d * static_cast<float>((from[2 + i] & 15) - 8);
    x[i + 16] = d * static_cast<float>((from[2 + i] >> 4) - 8);
  }
}

void encode_q5_0(const float* x, uint8_t* to) {
  float d;
  uint8_t q[32];
  encode_signed(x, 16, &d, q);
  uint32_t high = 0;
  for (int i = 0; i < 32; ++i) high |= static_cast<uint32_t>(q[i] >> 4) << i;
  put_f16(to, d);
  std::memcpy(to + 2, &high, 4);
  for (int i = 0; i < 16; ++i) to[6 + i] = static_cast<uint8_t>((q[i] & 15) | ((q[i + 16] & 15) << 4));
}
void decode_q5_0(const uint8_t* from, float* x) {
  const float d = get_f16(from);
  uint32_t high;
  std::memcpy(&high, from + 2, 4);
  for (int i = 0; i < 32; ++i) {
    const int low = i < 16 ? from[6 + i] & 15 : from[6 + i - 16] >> 4;
    x[i] = d * static_cast<float>((low | static_cast<int>((high >> i) & 1) << 4) - 16);
  }
}

void encode_q8_0(const float* x, uint8_t* to) {
  const float d = std::fabs(extreme(x, 32)) / 127.0f;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  put_f16(to, d);
  for (int i = 0; i < 32; ++i) to[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(x[i] * inverse)));
}
void decode_q8_0(const uint8_t* from, float* x) {
  const float d = get_f16(from);
  for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(static_cast<int8_t>(from[2 + i]));
}

// Scale s >= 0 and minimum t >= 0 of 32 elements, x ~ s q - t with q in [0, 15], that make the weighted squared error
// least: for 21 ways of rounding (the levels spread over 14 to 16 steps), the best s and t in closed form.
void fit_offset(const float* x, float* scale, float* minimum) {
  const V a = load(x), b = load(x + kLanes);
  const float root = std::sqrt(sum(a * a + b * b) / 32.0f);
  const V wa = absolute(a) + root, wb = absolute(b) + root;  // large elements count more
  float low = 0, high = x[0];
  for (int i = 0; i < 32; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
  *scale = 0, *minimum = -low;
  if (high <= low) return;
  const float sum_w = sum(wa + wb), sum_x = sum(wa * a + wb * b);
  const auto levels = [&](V v, float steps) { return clamp(nearest((v - low) * (steps / (high - low))), 0, 15); };
  const auto error = [&](V qa, V qb, float s, float t) {
    const V da = s * qa - t - a, db = s * qb - t - b;
    return sum(wa * da * da + wb * db * db);
  };
  *scale = (high - low) / 15.0f;
  float best = error(levels(a, 15), levels(b, 15), *scale, -low);
  for (int step = 0; step <= 20; ++step) {
    const float steps = 14.0f + 0.1f * static_cast<float>(step);
    const V qa = levels(a, steps), qb = levels(b, steps);
    const float sum_q = sum(wa * qa + wb * qb), sum_qq = sum(wa * qa * qa + wb * qb * qb);
    const float sum_qx = sum(wa * qa * a + wb * qb * b);
    const float determinant = sum_w * sum_qq - sum_q * sum_q;
    if (!(determinant > 0)) continue;
    float s = (sum_w * sum_qx - sum_x * sum_q) / determinant;
    float t = -(sum_qq * sum_x - sum_q * sum_qx) / determinant;
    if (t < 0) t = 0, s = sum_qx / sum_qq;
    const float now = error(qa, qb, s, t);
    if (now < best) best = now, *scale = s, *minimum = t, low = -t;  // later attempts spread from here
  }
}

// Scales and minima of a Q4_K block: six bits each; the upper two bits of groups 4 to 7 lie above those of 0 to 3.
void put_pairs(uint8_t* to, const uint8_t s[8], const uint8_t t[8]) {
  for (int j = 0; j < 4; ++j) {
    to[j] = static_cast<uint8_t>(s[j] | (s[j + 4] >> 4) << 6);
    to[j + 4] = static_cast<uint8_t>(t[j] | (t[j + 4] >> 4) << 6);
    to[j + 8] = static_cast<uint8_t>((s[j + 4] & 15) | (t[j + 4] & 15) << 4);
  }
}
void get_pairs(const uint8_t* from, uint8_t s[8], uint8_t t[8]) {
  for (int j = 0; j < 4; ++j) {
    s[j] = from[j] & 63, t[j] = from[j + 4] & 63;
    s[j + 4] = static_cast<uint8_t>((from[j + 8] & 15) | (from[j] >> 6) << 4);
    t[j + 4] = static_cast<uint8_t>((from[j + 8] >> 4) | (from[j + 4] >> 6) << 4);
  }
}

void encode_q4_k(const float* x, uint8_t* to) {
  float scale[8], minimum[8], most_scale = 0, most_minimum = 0;
  for (int j = 0; j < 8; ++j) {
    fit_offset(x + 32 * j, &scale[j], &minimum[j]);
    most_scale = std::max(most_scale, scale[j]), most_minimum = std::max(most_minimum, minimum[j]);
  }
  uint8_t s[8], t[8];
  const auto six_bits = [](float value, float most) {
    return static_cast<uint8_t>(most > 0 ? std::min(63.0f, nearest(63.0f / most * value)) : 0.0f);
  };
  for (int j = 0; j < 8; ++j) s[j] = six_bits(scale[j], most_scale), t[j] = six_bits(minimum[j], most_minimum);
  put_f16(to, most_scale / 63.0f), put_f16(to + 2, most_minimum / 63.0f);
  put_pairs(to + 4, s, t);
  const float d = get_f16(to), m = get_f16(to + 2);
  float q[256] = {};
  for (int j = 0; j < 8; ++j) {
    const float step = d * s[j], offset = m * t[j];
    if (step == 0) continue;
    for (int i = 32 * j; i < 32 * (j + 1); i += kLanes)
      store(q + i, clamp(nearest((load(x + i) + offset) / step), 0, 15));
  }
  for (int j = 0; j < 4; ++j) {  // groups 2 j and 2 j + 1 share bytes
    for (int i = 0; i < 32; ++i)
      to[16 + 32 * j + i] =
          static_cast<uint8_t>(static_cast<int>(q[64 * j + i]) | static_cast<int>(q[64 * j + 32 + i]) << 4);
  }
}
void decode_q4_k(const uint8_t* from, float* x) {
  uint8_t s[8], t[8];
  get_pairs(from + 4, s, t);
  const float d = get_f16(from), m = get_f16(from + 2);
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 32; ++i) {
      const uint8_t byte = from[16 + 32 * (j / 2) + i];
      x[32 * j + i] = d * s[j] * static_cast<float>(j % 2 ? byte >> 4 : byte & 15) - m * t[j];
    }
  }
}

// Scale of 16 elements, x ~ s q with q in [-32, 31], that makes the squared error weighted by x^2 least, among 19 ways
// of rounding.
float fit_signed(const float* x) {
  const float most = extreme(x, 16);
  if (std::fabs(most) < 1e-15f) return 0;
  const V v = load(x), w = v * v;
  float scale = 0, best = -1;
  const auto attempt = [&](float steps) {
    const V q = clamp(nearest(v * (-steps / most)), -32, 31);
    const float qx = sum(w * v * q), qq = sum(w * q * q);
    if (!(qq > 0) || qx * qx <= best * qq) return;
    scale = qx / qq, best = scale * qx;
  };
  attempt(32);
  for (int step = -9; step <= 9; ++step)
    if (step != 0) attempt(32.0f + 0.1f * static_cast<float>(step));
  return scale;
}

void encode_q6_k(const float* x, uint8_t* to) {
  float scale[16];
  for (int j = 0; j < 16; ++j) scale[j] = fit_signed(x + 16 * j);
  const float most = extreme(scale, 16);
  std::memset(to, 0, 210);
  if (std::fabs(most) < 1e-15f) return;
  const float inverse = -128.0f / most;
  put_f16(to + 208, 1.0f / inverse);
  const float d = get_f16(to + 208);
  float q[256] = {};
  for (int j = 0; j < 16; ++j) {
    const float s = std::min(127.0f, nearest(inverse * scale[j]));
    to[192 + j] = static_cast<uint8_t>(static_cast<int8_t>(s));
    if (d * s != 0) store(q + 16 * j, clamp(nearest(load(x + 16 * j) / (d * s)), -32, 31) + 32.0f);
  }
  for (int half = 0; half < 2; ++half) {
    const float* h = q + 128 * half;
    for (int i = 0; i < 32; ++i) {
      int level[4];
      for (int k = 0; k < 4; ++k) level[k] = static_cast<int>(h[32 * k + i]);
      to[64 * half + i] = static_cast<uint8_t>((level[0] & 15) | (level[2] & 15) << 4);
      to[64 * half + 32 + i] = static_cast<uint8_t>((level[1] & 15) | (level[3] & 15) << 4);
      for (int k = 0; k < 4; ++k)
        to[128 + 32 * half + i] = static_cast<uint8_t>(to[128 + 32 * half + i] | (level[k] >> 4) << (2 * k));
    }
  }
}
void decode_q6_k(const uint8_t* from, float* x) {
  const float d = get_f16(from + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, k = i % 128 / 32, at = i % 32;
    const int low = from[64 * half + 32 * (k % 2) + at] >> (k / 2 * 4) & 15;
    const int high = from[128 + 32 * half + at] >> (2 * k) & 3;
    x[i] = d * static_cast<float>(static_cast<int8_t>(from[192 + i / 16])) * static_cast<float>((low | high << 4) - 32);
  }
}

struct Format {
  GgufType type;
  std::string_view name;
  int64_t elements, bytes;
  void (*encode)(const float*, uint8_t*);
  void (*decode)(const uint8_t*, float*);
};

void encode_f32(const float* x, uint8_t* to) {
  std::memcpy(to, x, 4);
}
void decode_f32(const uint8_t* from, float* x) {
  std::memcpy(x, from, 4);
}
void encode_bf16(const float* x, uint8_t* to) {
  const uint16_t bits = f32_to_bf16(*x);
  std::memcpy(to, &bits, 2);
}
void decode_bf16(const uint8_t* from, float* x) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  *x = bf16_to_f32(bits);
}

constexpr Format kFormats[] = {
    {GgufType::kF32, "F32", 1, 4, encode_f32, decode_f32},
    {GgufType::kBF16, "BF16", 1, 2, encode_bf16, decode_bf16},
    {GgufType::kQ4_0, "Q4_0", 32, 18, encode_q4_0, decode_q4_0},
    {GgufType::kQ5_0, "Q5_0", 32, 22, encode_q5_0, decode_q5_0},
    {GgufType::kQ8_0, "Q8_0", 32, 34, encode_q8_0, decode_q8_0},
    {GgufType::kQ4_K, "Q4_K", 256, 144, encode_q4_k, decode_q4_k},
    {GgufType::kQ6_K, "Q6_K", 256, 210, encode_q6_k, decode_q6_k},
};

const Format& format_of(GgufType type) {
  for (const Format& format : kFormats)
    if (format.type == type) return format;
  throw Error(ErrorCode::kInvalidArgument, "no such GGUF type", "type");
}

}  // namespace

GgufType gguf_type(std::string_view name) {
  for (const Format& format : kFormats)
    if (format.name == name) return format.type;
  throw Error(ErrorCode::kInvalidArgument, "no GGUF type is called " + std::string(name), "type");
}

int64_t gguf_block_elements(GgufType type) {
  return format_of(type).elements;
}
int64_t gguf_block_bytes(GgufType type) {
  return format_of(type).bytes;
}

void gguf_encode(GgufType type, const float* from, int64_t n, void* to) {
  const Format& format = format_of(type);
  uint8_t* out = static_cast<uint8_t*>(to);
  for (int64_t i = 0; i < n; i += format.elements, out += format.bytes) format.encode(from + i, out);
}

void gguf_decode(GgufType type, const void* from, int64_t n, float* to) {
  const Format& format = format_of(type);
  const uint8_t* in = static_cast<const uint8_t*>(from);
  for (int64_t i = 0; i < n; i += format.elements, in += format.bytes) format.decode(in, to + i);
}

}  // namespace qwen3::bench
