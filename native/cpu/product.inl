// The one microkernel: out[row, column] = scale[row] * out[row, column] + sum over steps of a[row, step] b[step,
// column]. Linear, scores and weighted values are all this product with other strides. Accumulators of an R x CV tile
// of vectors stay in registers; each walks the steps in ascending order, whatever R is.

// f32 times f32, a step is one k.
struct F32xF32 {
  using A = float;
  using B = float;
  static constexpr int kDepth = 1;
  static constexpr int kParts = 1;
  using Vector = F;
  static inline Vector load_b(const B* b) { return vload(b); }
  static inline F multiply_add(F acc, const A* a, Vector b) { return vfma(vset(a[0]), b, acc); }
  static inline F first_half(F acc, const A* a, Vector b) { return multiply_add(acc, a, b); }
  static inline void store_a(A* a, F v, int n) { vstore_n(a, v, n); }
  static inline F value(F v) { return v; }
};

// f32 times bf16, a step is a pair: even k, then odd k, each fused where the level has it.
struct F32xBf16 {
  using A = float;
  using B = uint16_t;
  static constexpr int kDepth = 2;
  static constexpr int kParts = 1;
  using Vector = Pairs;
  static inline Vector load_b(const B* b) { return vload_pairs(b); }
  static inline F multiply_add(F acc, const A* a, const Vector& b) {
    return vfma(vset(a[1]), b.odd, vfma(vset(a[0]), b.even, acc));
  }
  static inline F first_half(F acc, const A* a, const Vector& b) { return vfma(vset(a[0]), b.even, acc); }
  static inline void store_a(A* a, F v, int n) { vstore_n(a, vround_bf16(v), n); }
  static inline F value(F v) { return vround_bf16(v); }
};

// The same, taking the odd halves of b when the even ones have been used: with 16 registers a tile of 5 x 2 fits.
struct F32xBf16InParts : F32xBf16 {
  static constexpr int kParts = 2;
  static inline F load_part(const B* b, int part) { return part ? vload_pairs(b).odd : vload_pairs(b).even; }
};

// ahead: memory that is needed next is asked for, as many bytes a step as the step reads of b; null: none.
template <class M, int R, int CV>
inline void product_tile(const typename M::A* a, int64_t lda, const typename M::B* b, int64_t ldb, int64_t steps,
                         float* out, int64_t ldo, const float* scale, const char* ahead = nullptr) {
  constexpr int64_t kStepBytes = int64_t{CV} * W * M::kDepth * sizeof(typename M::B);
  F acc[R][CV];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < CV; ++c) acc[r][c] = scale ? vload(out + r * ldo + c * W) * vset(scale[r]) : vset(0.0f);
  }
  for (int64_t s = 0; s < steps; ++s) {
    if constexpr (M::kParts == 2) {
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        F bv[CV];
#pragma GCC unroll 8
        for (int c = 0; c < CV; ++c) bv[c] = M::load_part(b + c * W * M::kDepth, part);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
          for (int c = 0; c < CV; ++c) acc[r][c] = vkept(vfma(vset(a[r * lda + part]), bv[c], acc[r][c]));
        }
      }
    } else {
      typename M::Vector bv[CV];
#pragma GCC unroll 8
      for (int c = 0; c < CV; ++c) bv[c] = M::load_b(b + c * W * M::kDepth);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < CV; ++c) acc[r][c] = M::multiply_add(acc[r][c], a + r * lda, bv[c]);
      }
    }
    a += M::kDepth;
    b += ldb;
    if (ahead) {
#pragma GCC unroll 8
      for (int64_t at = 0; at < kStepBytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
      ahead += kStepBytes;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < CV; ++c) vstore(out + r * ldo + c * W, acc[r][c]);
  }
}

// The tile with as many rows as there are, 1 to R.
template <class M, int R, int CV>
inline void product_up_to(int64_t rows, const typename M::A* a, int64_t lda, const typename M::B* b, int64_t ldb,
                          int64_t steps, float* out, int64_t ldo, const float* scale, const char* ahead = nullptr) {
  if (rows >= R) {
    product_tile<M, R, CV>(a, lda, b, ldb, steps, out, ldo, scale, ahead);
  } else if constexpr (R > 1) {
    product_up_to<M, R - 1, CV>(rows, a, lda, b, ldb, steps, out, ldo, scale, ahead);
  }
}

// Any number of rows; `columns` a multiple of CV * W. `ahead` is read along with the first R rows.
template <class M, int R, int CV>
inline void product_block(int64_t rows, int64_t columns, const typename M::A* a, int64_t lda, const typename M::B* b,
                          int64_t ldb, int64_t steps, float* out, int64_t ldo, const float* scale,
                          const char* ahead = nullptr) {
  for (int64_t c = 0; c < columns; c += CV * W) {
    for (int64_t r = 0; r < rows; r += R) {
      product_up_to<M, R, CV>(rows - r, a + r * lda, lda, b + c * M::kDepth, ldb, steps, out + r * ldo + c, ldo,
                              scale ? scale + r : nullptr, r == 0 ? ahead : nullptr);
    }
    if (ahead) ahead += steps * CV * W * M::kDepth * static_cast<int64_t>(sizeof(typename M::B));
  }
}
