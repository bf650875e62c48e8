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
#include "cpu/kernels_common.inl"
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

constexpr KernelTable table = [] {
  KernelTable t = common_table("avx512bf16");
  t.bf16_products = true;
  t.linear_bf16_bf16 = linear<Bf16xBf16>;
  t.attention_bf16 = attention<Bf16xBf16>;
  return t;
}();

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
