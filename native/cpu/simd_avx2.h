// Eight lanes: AVX2, FMA. Included once, inside the unnamed namespace of kernels_avx2.cc.

constexpr int W = 8;
typedef __m256 F;

inline F vset(float x) {
  return _mm256_set1_ps(x);
}
inline F vload(const float* p) {
  return _mm256_loadu_ps(p);
}
inline void vstore(float* p, F v) {
  _mm256_storeu_ps(p, v);
}
inline __m256i lanes_below(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F vload_n(const float* p, int n) {
  return _mm256_maskload_ps(p, lanes_below(n));
}
inline void vstore_n(float* p, F v, int n) {
  _mm256_maskstore_ps(p, lanes_below(n), v);
}
inline F vfma(F a, F b, F c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline F vmax(F a, F b) {
  return _mm256_max_ps(a, b);
}
inline F vmin(F a, F b) {
  return _mm256_min_ps(a, b);
}
inline F vround(F x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F vpow2(F n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F vselect_ge(F x, F y, F a, F b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_GE_OQ));
}
inline F vkeep_first(F x, int n, float fill) {
  return _mm256_blendv_ps(vset(fill), x, _mm256_castsi256_ps(lanes_below(n)));
}
inline float vsum(F x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline float vhmax(F x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline F vround_bf16(F x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_and_si256(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), high);
  const __m256i quiet = _mm256_and_si256(_mm256_or_si256(bits, _mm256_set1_epi32(0x00400000)), high);
  const F is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  return _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), is_nan);
}
struct Pairs {
  F even, odd;
};
inline Pairs vload_pairs(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}

// Integers: lanes of int32, or four bytes a lane.
typedef __m256i I;
inline I iset(int32_t x) {
  return _mm256_set1_epi32(x);
}
inline I iload(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline F ito_f(I x) {
  return _mm256_cvtepi32_ps(x);
}
inline I iround(F x) {  // to nearest even
  return _mm256_cvtps_epi32(x);
}
inline I iadd(I a, I b) {
  return _mm256_add_epi32(a, b);
}
inline I imax(I a, I b) {
  return _mm256_max_epi32(a, b);
}
inline I imagnitude_bits(F x) {
  return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}
inline int32_t ihmax(I x) {
  __m128i s = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
inline int32_t ihsum(I x) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
inline void istore_s8(int8_t* p, I x) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline I ilow_halves(I x) {
  return _mm256_and_si256(x, _mm256_set1_epi8(0x0f));
}
inline I ihigh_halves(I x) {
  return _mm256_and_si256(_mm256_srli_epi32(x, 4), _mm256_set1_epi8(0x0f));
}
inline F vload_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline F vload_u8(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline F vload_s8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#if defined(__AVXVNNI__) || defined(QWEN3_EMULATED_AVXVNNI)
// acc + four products a lane of unsigned w (0..255) and signed x.
constexpr bool kUnsignedDot = true;
#if defined(__AVXVNNI__)
inline I idot8(I acc, I w, I x) {
  return _mm256_dpbusd_avx_epi32(acc, w, x);
}
#else  // VPDPBUSD by its definition, for tests on machines that lack it
inline I idot8(I acc, I w, I x) {
  const I even =
      _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(0xff)), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  const I odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
#endif
inline I idot4(I acc, I w, I x) {
  return idot8(acc, w, x);
}
#else
// The 8-bit products saturate at 16 bits unless one side is a magnitude: w - 128 gives its sign to x. Nothing to
// correct.
constexpr bool kUnsignedDot = false;
inline I idot4(I acc, I w, I x) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
inline I idot8(I acc, I w, I x) {
  const I centred = _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80)));
  return idot4(acc, _mm256_abs_epi8(centred), _mm256_sign_epi8(x, centred));
}
#endif

// Words of 16 bits, two to a lane.
inline I ilower_bytes(I x) {  // of each word, as numbers
  return _mm256_and_si256(x, _mm256_set1_epi16(0xff));
}
inline I iupper_bytes(I x) {
  return _mm256_srli_epi16(x, 8);
}
inline I iadd_words(I a, I b) {
  return _mm256_add_epi16(a, b);
}
// acc + both products of each lane's words.
inline I idot_words(I acc, I a, I b) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}
// Products of bytes, w unsigned and x signed; the sum of two neighbours must fit a word.
inline I ibyte_products(I w, I x) {
  return _mm256_maddubs_epi16(w, x);
}
// x, in a register at this place of the program. GCC 12 moves sums: of integers it forms all products of a group first,
// of floats it mixes the parts of a step, and spills what then has no register.
inline I ikept(I x) {
  asm("" : "+x"(x));
  return x;
}
inline F vkept(F x) {
  asm("" : "+x"(x));
  return x;
}
// 32 bytes, widened: four of them, 0 1 2 3, become the words 0 2 1 3, which meet ilower_bytes and iupper_bytes.
inline void istore_pairs(int16_t* p, I bytes) {
  const I even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), odd = _mm256_srai_epi16(bytes, 8);
  const I low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 16), _mm256_permute2x128_si256(low, high, 0x31));
}
