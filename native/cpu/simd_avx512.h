// Sixteen lanes: AVX-512 F, BW, VL, DQ. Included once in each of kernels_avx512.cc and kernels_avx512bf16.cc, inside
// their unnamed namespaces.

constexpr int W = 16;
typedef __m512 F;

inline F vset(float x) {
  return _mm512_set1_ps(x);
}
inline F vload(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void vstore(float* p, F v) {
  _mm512_storeu_ps(p, v);
}
inline __mmask16 lanes_below(int n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>(n <= 0 ? 0 : (1u << n) - 1u);
}
inline F vload_n(const float* p, int n) {
  return _mm512_maskz_loadu_ps(lanes_below(n), p);
}
inline void vstore_n(float* p, F v, int n) {
  _mm512_mask_storeu_ps(p, lanes_below(n), v);
}
inline F vfma(F a, F b, F c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline F vmax(F a, F b) {
  return _mm512_max_ps(a, b);
}
inline F vmin(F a, F b) {
  return _mm512_min_ps(a, b);
}
inline F vround(F x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F vpow2(F n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
inline F vselect_ge(F x, F y, F a, F b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_GE_OQ), b, a);
}
inline F vkeep_first(F x, int n, float fill) {
  return _mm512_mask_blend_ps(lanes_below(n), vset(fill), x);
}
inline float vsum(F x) {
  return _mm512_reduce_add_ps(x);
}
inline float vhmax(F x) {
  return _mm512_reduce_max_ps(x);
}
inline F vround_bf16(F x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_and_si512(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), high);
  const __m512i quiet = _mm512_and_si512(_mm512_or_si512(bits, _mm512_set1_epi32(0x00400000)), high);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_castsi512_ps(_mm512_mask_blend_epi32(is_nan, rounded, quiet));
}
struct Pairs {
  F even, odd;
};
inline Pairs vload_pairs(const uint16_t* p) {
  const __m512i bits = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
