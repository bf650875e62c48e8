#include "cpu/kernels.h"

#if defined(__x86_64__)
// GCC 12's AVX-512 intrinsics use an undefined vector on purpose and are then warned about.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

namespace qwen3::cpu {
namespace {

// clang-format off
#include "cpu/simd_avx512.h"
#include "cpu/simd_avx512bf16.h"
#include "cpu/product.inl"
// clang-format on

// bf16 times bf16 in pairs, accumulated in f32 (VDPBF16PS).
struct Bf16xBf16 {
  using A = uint16_t;
  using B = uint16_t;
  static constexpr int kDepth = 2;
  static constexpr int kParts = 1;
  using Vector = __m512bh;
  static inline Vector load_b(const B* b) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(b)); }
  static inline __m512bh broadcast(const A* a) {
    int pair;
    __builtin_memcpy(&pair, a, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static inline F multiply_add(F acc, const A* a, Vector b) { return _mm512_dpbf16_ps(acc, broadcast(a), b); }
  // Only the even element of the pair counts; the odd ones are cleared on both sides.
  static inline F first_half(F acc, const A* a, Vector b) {
    const __m512i even = _mm512_and_si512(reinterpret_cast<__m512i>(b), _mm512_set1_epi32(0xffff));
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(_mm512_set1_epi32(a[0])), reinterpret_cast<__m512bh>(even));
  }
  static inline void store_a(A* a, F v, int n) { vstore_bf16_n(a, v, n); }
  static inline F value(F v) { return vfrom_bf16(vto_bf16(v)); }
};

// Each builds on those above.
// clang-format off
#include "cpu/elementwise.inl"
#include "cpu/linear.inl"
#include "cpu/quantise.inl"
#include "cpu/linear_int.inl"
#include "cpu/attention.inl"
#include "cpu/attention_int8.inl"
// clang-format on

const KernelTable table = {
    .name = "avx512bf16",
    .bf16_products = true,
    .row_group = kWideRows,
    .linear_f32_f32 = linear<F32xF32>,
    .linear_f32_bf16 = linear<F32xBf16>,
    .linear_bf16_bf16 = linear<Bf16xBf16>,
    .linear_int8 = linear_int<Int8>,
    .linear_int4 = linear_int<Int4>,
    .linear_int4_offset = linear_int<Int4Offset>,
    .quantise = quantise,
    .fit_int8 = fit_int8,
    .fit_int4 = fit_int4,
    .encode = encode,
    .rms_norm = rms_norm,
    .norm_rope = norm_rope,
    .attention_f32 = attention<F32xF32>,
    .attention_bf16 = attention<Bf16xBf16>,
    .attention_int8 = attention_int8,
    .combine = combine,
    .softmax = softmax,
    .add_scaled = add_scaled,
};

}  // namespace

const KernelTable* kernels_avx512bf16() {
  return &table;
}

}  // namespace qwen3::cpu

#else

namespace qwen3::cpu {
const KernelTable* kernels_avx512bf16() {
  return nullptr;
}
}  // namespace qwen3::cpu

#endif
