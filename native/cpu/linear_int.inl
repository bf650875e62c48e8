// The products of integer weights: layouts and formula in kernels.h.
//
// Sums of a group stay in registers, for kIntRows rows x kIntVectors vectors of columns. The f32 accumulators lie in
// the first-level cache; up to kIntFewRows rows keep them in registers too. A panel that comes from memory is best read
// by a tile of at most kIntFirstRows rows, whose activations stay in the first level beside it; asking for its bytes
// ahead by instruction only disturbed the processor's own prefetching (measured on Zen 4, distances of 512 bytes to a
// panel), but for one row of int4: it waits at the end of each page, where the processor's prefetching stops.
constexpr int kIntRows = W == 16 ? 12 : W == 8 ? 6 : 4;
constexpr int kIntVectors = 2;
constexpr int kIntFewRows = W == 16 ? 6 : 1;
constexpr int kIntFirstRows = W == 16 ? 8 : kIntRows;
// A page and a half. 9 % faster steps (Zen 4, six alternating runs each; 3 and 4 kB ahead, and other levels: 0 to 5 %;
// int8, which takes longer over a page: nothing).
constexpr int64_t kInt4Ahead = 6144;

struct Int8 {
  static constexpr int64_t kBytes = kInt8BlockBytes;
  static constexpr int kGroups = 1;  // of a block
  static constexpr int kWords = 16;  // vectors of four bytes a lane that a group's column has
  static constexpr int64_t kScales = kBlock * kPanel;
  static constexpr int64_t kValue = 1;  // bytes of an activation
  static constexpr bool kCorrect = kUnsignedDot;
  static constexpr bool kOffset = false;
  // sum += the products of a group.
  template <int R, int C>
  static inline __attribute__((always_inline)) void add_group(I (&sum)[R][C], const int8_t* x, int64_t ldx,
                                                              const uint8_t* w) {
#pragma GCC unroll 16
    for (int word = 0; word < kWords; ++word) add(sum, x, ldx, w, word);
  }
  template <int R, int C>
  static inline void add(I (&sum)[R][C], const int8_t* x, int64_t ldx, const uint8_t* w, int word) {
    I wide[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) wide[c] = iload(w + (word * kPanel + c * W) * 4);
    multiply(sum, x + word * 4, ldx, wide);
  }
  template <int R, int C>
  static inline void multiply(I (&sum)[R][C], const int8_t* x, int64_t ldx, const I (&w)[C]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t four;
      __builtin_memcpy(&four, x + r * ldx, sizeof four);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = idot8(sum[r][c], w[c], iset(four));
    }
  }
};

struct Int4 {
  static constexpr int64_t kBytes = kInt4BlockBytes;
  static constexpr int kGroups = 2;
  static constexpr int kWords = 4;
  static constexpr int64_t kScales = kBlock * kPanel / 2;
  static constexpr int64_t kValue = 1;
  static constexpr bool kCorrect = true;
  static constexpr bool kOffset = false;
  template <int R, int C>
  static inline __attribute__((always_inline)) void add_group(I (&sum)[R][C], const int8_t* x, int64_t ldx,
                                                              const uint8_t* w) {
#pragma GCC unroll 16
    for (int word = 0; word < kWords; ++word) add(sum, x, ldx, w, word);
  }
  template <int R, int C>
  static inline void add(I (&sum)[R][C], const int8_t* x, int64_t ldx, const uint8_t* w, int word) {
    I both[C], half[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) both[c] = iload(w + (word * kPanel + c * W) * 4), half[c] = ilow_halves(both[c]);
    multiply(sum, x + word * 4, ldx, half);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) half[c] = ihigh_halves(both[c]);
    multiply(sum, x + 16 + word * 4, ldx, half);
  }
  template <int R, int C>
  static inline void multiply(I (&sum)[R][C], const int8_t* x, int64_t ldx, const I (&w)[C]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t four;
      __builtin_memcpy(&four, x + r * ldx, sizeof four);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = idot4(sum[r][c], w[c], iset(four));
    }
  }
};

struct Int4Offset : Int4 {
  static constexpr int64_t kBytes = kInt4OffsetBlockBytes;
  static constexpr bool kCorrect = false;
  static constexpr bool kOffset = true;
  static constexpr int64_t kZeros = kInt4BlockBytes;
};

// Rows of a tile, and where they meet the panel.
struct IntTile {
  const int8_t* x;
  int64_t x_stride;
  const float* scales;  // [groups, meta_stride]
  const int32_t* corrections;
  int64_t meta_stride;
  const uint8_t* panel;
  float* out;  // [rows, 32] accumulators
};

// One group for R rows and C vectors of columns from `column` on: fold(r, c, sum times scales).
template <class D, int R, int C, class Fold>
inline __attribute__((always_inline)) void int_group(const IntTile& t, int64_t at, const uint8_t* block, int group,
                                                     int64_t column, Fold&& fold) {
  const float* x_scales = t.scales + at * t.meta_stride;
  const int32_t* corrections = t.corrections + at * t.meta_stride;
  I sum[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = D::kCorrect ? iset(corrections[r]) : iset(0);
  }
  const int8_t* x = t.x + at * (kBlock / D::kGroups) * D::kValue;
  const uint8_t* w = block + group * (D::kScales / D::kGroups) + column * 4;
  D::template add_group<R, C>(sum, x, t.x_stride, w);
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(block + D::kScales) + group * kPanel + column;
  F scale[C], zero[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    scale[c] = vload_f16(scales + c * W);
    if constexpr (D::kOffset) zero[c] = vload_u8(block + D::kZeros + group * kPanel + column + c * W);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      F value = ito_f(sum[r][c]);
      if constexpr (D::kOffset) {  // exact, fused or not: 24 bits hold every value
        float part;
        __builtin_memcpy(&part, corrections + r, sizeof part);
        value = vfma(zero[c], vset(part), value);
      }
      fold(r, c, value * (scale[c] * vset(x_scales[r])));
    }
  }
}

// All of the panel: `n_blocks` blocks.
template <class D, int R>
__attribute__((noinline)) void int_rows(const IntTile* tile, int64_t n_blocks) {
  const IntTile t = *tile;
  if constexpr (R <= kIntFewRows) {
    constexpr int C = static_cast<int>(kPanel) / W;
    F acc[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = vset(0.0f);
    }
    for (int64_t index = 0; index < n_blocks; ++index) {
      if constexpr (R == 1 && D::kGroups == 2) {
        const uint8_t* ahead = t.panel + index * D::kBytes + kInt4Ahead;
        for (int64_t line = 0; line < D::kBytes; line += 64) __builtin_prefetch(ahead + line, 0, 2);
      }
#pragma GCC unroll 2
      for (int group = 0; group < D::kGroups; ++group) {
        int_group<D, R, C>(t, index * D::kGroups + group, t.panel + index * D::kBytes, group, 0,
                           [&](int r, int c, F value) { acc[r][c] = acc[r][c] + value; });
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) vstore(t.out + r * kPanel + c * W, acc[r][c]);
    }
    return;
  }
  for (int64_t i = 0; i < R * kPanel; i += W) vstore(t.out + i, vset(0.0f));
  for (int64_t column = 0; column < kPanel; column += kIntVectors * W) {
    for (int64_t index = 0; index < n_blocks; ++index) {
      for (int group = 0; group < D::kGroups; ++group) {
        int_group<D, R, kIntVectors>(t, index * D::kGroups + group, t.panel + index * D::kBytes, group, column,
                                     [&](int r, int c, F value) {
                                       float* to = t.out + r * kPanel + column + c * W;
                                       vstore(to, vload(to) + value);
                                       // Not to be kept in registers, nor gathered: there are none left.
                                       asm volatile("" ::: "memory");
                                     });
      }
    }
  }
}

template <class D, int R>
inline void int_rows_up_to(int64_t rows, const IntTile& t, int64_t n_blocks) {
  if (rows >= R) {
    int_rows<D, R>(&t, n_blocks);
  } else if constexpr (R > 1) {
    int_rows_up_to<D, R - 1>(rows, t, n_blocks);
  }
}

template <class D>
void linear_int(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  alignas(64) float out[kIntRows * kPanel];
  const LinearArgs& a = *args;
  const int64_t all = row_end - row_begin, most = all <= 3 * kIntFirstRows ? kIntFirstRows : kIntRows;
  const int64_t n_tiles = (all + most - 1) / most;
  if (all <= 0) return;
  const int64_t each = (all + n_tiles - 1) / n_tiles;  // tiles of about equal height
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* w = static_cast<const uint8_t*>(a.weight) + panel * a.steps * D::kBytes;
    for (int64_t row = row_begin; row < row_end; row += each) {
      const int64_t rows = row_end - row < each ? row_end - row : each;
      const IntTile tile = {static_cast<const int8_t*>(a.x) + row * a.x_stride,
                            a.x_stride,
                            a.x_scales + row,
                            a.x_corrections + row,
                            a.x_meta_stride,
                            w,
                            out};
      if (most == kIntRows) prefetch_output(a, row, rows, panel);
      int_rows_up_to<D, kIntRows>(rows, tile, a.steps);
      for (int64_t r = 0; r < rows; ++r) finish_row(a, out + r * kPanel, row + r, panel);
    }
  }
}
