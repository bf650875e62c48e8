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
