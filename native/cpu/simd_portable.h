// Four lanes in the compiler's portable vectors: the level that every machine runs. No include guard on purpose: each
// kernels_*.cc includes exactly one simd_*.h, inside its unnamed namespace.

constexpr int W = 4;
typedef float F __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));

inline F vset(float x) {
  return F{x, x, x, x};
}
inline F vload(const float* p) {
  F v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void vstore(float* p, F v) {
  __builtin_memcpy(p, &v, sizeof v);
}
inline F vload_n(const float* p, int n) {
  F v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
inline void vstore_n(float* p, F v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
// a * b + c, rounded twice here: a fused one without the instruction would be a slow call.
inline F vfma(F a, F b, F c) {
  return a * b + c;
}
// The second operand when either is NaN, as on x86.
inline F vmax(F a, F b) {
  return a > b ? a : b;
}
inline F vmin(F a, F b) {
  return a < b ? a : b;
}
inline F vround(F x) {  // to nearest even, |x| < 2^22
  const F magic = vset(12582912.0f);
  return (x + magic) - magic;
}
inline F vpow2(F n) {  // 2^n for integral n in [-126, 127]
  const I exponent = (__builtin_convertvector(n, I) + 127) << 23;
  return reinterpret_cast<F>(exponent);
}
// x >= y ? a : b, lane by lane; b when unordered.
inline F vselect_ge(F x, F y, F a, F b) {
  return x >= y ? a : b;
}
// Lanes from n on become `fill`.
inline F vkeep_first(F x, int n, float fill) {
  const I lane = {0, 1, 2, 3};
  const I limit = {n, n, n, n};
  return lane < limit ? x : vset(fill);
}
inline float vsum(F x) {
  return (x[0] + x[2]) + (x[1] + x[3]);
}
inline float vhmax(F x) {
  const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
inline F vround_bf16(F x) {
  const U bits = reinterpret_cast<U>(x);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  const U quiet = (bits | 0x00400000u) & 0xffff0000u;
  return reinterpret_cast<F>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}
// 2 W bf16 in a row are W pairs.
struct Pairs {
  F even, odd;
};
inline Pairs vload_pairs(const uint16_t* p) {
  U bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {reinterpret_cast<F>(bits << 16), reinterpret_cast<F>(bits & 0xffff0000u)};
}

// Integers: lanes of int32, or four bytes a lane.
inline I iset(int32_t x) {
  return I{x, x, x, x};
}
inline I iload(const void* p) {
  I v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline F ito_f(I x) {
  return __builtin_convertvector(x, F);
}
inline I iround(F x) {  // to nearest even, |x| < 2^22
  return __builtin_convertvector(vround(x), I);
}
inline I iadd(I a, I b) {
  return a + b;
}
inline I imax(I a, I b) {
  return a > b ? a : b;
}
inline I imagnitude_bits(F x) {
  return reinterpret_cast<I>(x) & 0x7fffffff;
}
inline int32_t ihmax(I x) {
  const int32_t a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
}
inline int32_t ihsum(I x) {
  return x[0] + x[1] + x[2] + x[3];
}
inline void istore_s8(int8_t* p, I x) {
  for (int i = 0; i < W; ++i) p[i] = static_cast<int8_t>(x[i]);
}
inline I ilow_halves(I x) {
  return x & 0x0f0f0f0f;
}
inline I ihigh_halves(I x) {
  return (x >> 4) & 0x0f0f0f0f;
}
inline float f16_value(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  float value;
  if (magnitude < 0x400u) {  // subnormal: a multiple of 2^-24
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
  } else {
    const uint32_t bits = (magnitude << 13) + (magnitude < 0x7c00u ? 0x38000000u : 0x70000000u);
    __builtin_memcpy(&value, &bits, sizeof value);
  }
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  bits |= sign;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
inline F vload_f16(const uint16_t* p) {
  return F{f16_value(p[0]), f16_value(p[1]), f16_value(p[2]), f16_value(p[3])};
}
inline F vload_u8(const uint8_t* p) {
  return F{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
}
inline F vload_s8(const int8_t* p) {
  return F{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
}
// acc + four products a lane of unsigned w (0..255) and signed x.
constexpr bool kUnsignedDot = true;
inline I idot8(I acc, I w, I x) {
  for (int shift = 0; shift < 32; shift += 8) acc += ((w >> shift) & 255) * ((x << (24 - shift)) >> 24);
  return acc;
}
inline I idot4(I acc, I w, I x) {
  return idot8(acc, w, x);
}
inline F vkept(F x) {  // as in simd_avx2.h, where registers are short
  return x;
}
