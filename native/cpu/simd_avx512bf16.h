// What AVX512_BF16 adds to simd_avx512.h, beside products. VCVTNEPS2BF16 rounds to nearest even and writes subnormal
// numbers as zero.

inline __m256i vto_bf16(F v) {
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
}
inline F vfrom_bf16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void vstore_bf16_n(uint16_t* p, F v, int n) {
  _mm256_mask_storeu_epi16(p, lanes_below(n), vto_bf16(v));
}
inline F vload_bf16_n(const uint16_t* p, int n) {
  return vfrom_bf16(_mm256_maskz_loadu_epi16(lanes_below(n), p));
}
