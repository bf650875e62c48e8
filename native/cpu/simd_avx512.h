// Sixteen lanes: AVX-512 F, BW, VL, DQ. Included once in each of kernels_avx512*.cc, inside their unnamed namespaces.

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

// Integers: lanes of int32, or four bytes a lane.
typedef __m512i I;
inline I iset(int32_t x) {
  return _mm512_set1_epi32(x);
}
inline I iload(const void* p) {
  return _mm512_loadu_si512(p);
}
inline F ito_f(I x) {
  return _mm512_cvtepi32_ps(x);
}
inline I iround(F x) {  // to nearest even
  return _mm512_cvtps_epi32(x);
}
inline I iadd(I a, I b) {
  return _mm512_add_epi32(a, b);
}
inline I imax(I a, I b) {
  return _mm512_max_epi32(a, b);
}
inline I imagnitude_bits(F x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}
inline int32_t ihmax(I x) {
  return _mm512_reduce_max_epi32(x);
}
inline int32_t ihsum(I x) {
  return _mm512_reduce_add_epi32(x);
}
inline void istore_s8(int8_t* p, I x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
}
inline I ilow_halves(I x) {
  return _mm512_and_si512(x, _mm512_set1_epi8(0x0f));
}
inline I ihigh_halves(I x) {
  return _mm512_and_si512(_mm512_srli_epi32(x, 4), _mm512_set1_epi8(0x0f));
}
inline F vload_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F vload_u8(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline F vload_s8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#if defined(__AVX512VNNI__)
// acc + four products a lane of unsigned w (0..255) and signed x.
constexpr bool kUnsignedDot = true;
inline I idot8(I acc, I w, I x) {
  return _mm512_dpbusd_epi32(acc, w, x);
}
inline I idot4(I acc, I w, I x) {
  return _mm512_dpbusd_epi32(acc, w, x);
}
#else
// The 8-bit products saturate at 16 bits unless one side is a magnitude: w - 128 gives its sign to x. Nothing to
// correct.
constexpr bool kUnsignedDot = false;
inline I idot4(I acc, I w, I x) {
  return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1)));
}
inline I idot8(I acc, I w, I x) {
  const I centred = _mm512_xor_si512(w, _mm512_set1_epi8(static_cast<char>(0x80)));
  const I signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(centred), _mm512_setzero_si512(), x);
  return idot4(acc, _mm512_abs_epi8(centred), signed_x);
}
#endif
inline F vkept(F x) {  // as in simd_avx2.h, where registers are short
  return x;
}
