// The products of integer weights: layouts and formula in kernels.h.
//
// A block is read once for up to kIntBlockRows rows. Sums of a group stay in registers, kIntRows x kIntVectors of them;
// the f32 accumulators of the panel lie in the first-level cache, but for a few rows, which keep both in registers.
constexpr int kIntRows = W == 16 ? 12 : 4;
constexpr int kIntVectors = 2;
constexpr int kIntFewRows = W == 16 ? 4 : 1;
constexpr int kIntBlockRows = 24;

struct Int8 {
  static constexpr int64_t kBytes = kInt8BlockBytes;
  static constexpr int kGroups = 1;  // of a block
  static constexpr int kWords = 16;  // vectors of four bytes a lane that a group's column has
  static constexpr int64_t kScales = kBlock * kPanel;
  static constexpr bool kCorrect = kUnsignedDot;
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
  static constexpr bool kCorrect = true;
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
  static constexpr int64_t kZeros = kInt4BlockBytes;
};

// The group's columns [column, column + C * W) for R rows, folded by fold(r, c, value).
template <class D, int R, int C, class Fold>
inline void int_group(const LinearArgs& a, const int8_t* x, const uint8_t* block, int64_t index, int group,
                      int64_t column, Fold&& fold) {
  const int64_t at = index * D::kGroups + group;
  const char* row = reinterpret_cast<const char*>(x);
  const auto correction = [&](int r) {
    return reinterpret_cast<const int32_t*>(row + r * a.x_stride + a.x_corrections) + at;
  };
  I sum[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = D::kCorrect ? iset(*correction(r)) : iset(0);
  }
  const int8_t* xs = x + at * (kBlock / D::kGroups);
  const uint8_t* w = block + group * (D::kScales / D::kGroups) + column * 4;
#pragma GCC unroll 16
  for (int word = 0; word < D::kWords; ++word) D::template add<R, C>(sum, xs, a.x_stride, w, word);
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(block + D::kScales) + group * kPanel + column;
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    const F scale = vload_f16(scales + c * W);
    F zero = vset(0.0f);
    if constexpr (__is_same(D, Int4Offset)) zero = vload_u8(block + D::kZeros + group * kPanel + column + c * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      F value = ito_f(sum[r][c]);
      if constexpr (__is_same(D, Int4Offset)) {  // exact: 24 bits hold every value
        value = value - zero * vset(*reinterpret_cast<const float*>(correction(r)));
      }
      const float x_scale = reinterpret_cast<const float*>(row + r * a.x_stride + a.x_scales)[at];
      fold(r, c, value * (scale * vset(x_scale)));
    }
  }
}

// A few rows over the whole panel, everything in registers. The panel comes from memory: its bytes are asked for ahead.
template <class D, int R>
inline void int_few_rows(const LinearArgs& a, const int8_t* x, const uint8_t* panel, float* tile) {
  constexpr int C = static_cast<int>(kPanel) / W;
  F acc[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = vset(0.0f);
  }
  for (int64_t index = 0; index < a.steps; ++index) {
    const uint8_t* block = panel + index * D::kBytes;
#pragma GCC unroll 2
    for (int group = 0; group < D::kGroups; ++group) {
      int_group<D, R, C>(a, x, block, index, group, 0, [&](int r, int c, F value) { acc[r][c] = acc[r][c] + value; });
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) vstore(tile + r * kPanel + c * W, acc[r][c]);
  }
}

// R rows of one block, into the accumulators of the panel.
template <class D, int R>
__attribute__((noinline)) void int_tile(const LinearArgs& a, const int8_t* x, const uint8_t* block, int64_t index,
                                        float* tile) {
  for (int64_t column = 0; column < kPanel; column += kIntVectors * W) {
    for (int group = 0; group < D::kGroups; ++group) {
      int_group<D, R, kIntVectors>(a, x, block, index, group, column, [&](int r, int c, F value) {
        float* to = tile + r * kPanel + column + c * W;
        vstore(to, vload(to) + value);
      });
    }
  }
}

template <class D, int R>
inline void int_few_up_to(int64_t rows, const LinearArgs& a, const int8_t* x, const uint8_t* panel, float* tile) {
  if (rows >= R) {
    int_few_rows<D, R>(a, x, panel, tile);
  } else if constexpr (R > 1) {
    int_few_up_to<D, R - 1>(rows, a, x, panel, tile);
  }
}

template <class D, int R>
inline void int_tile_up_to(int64_t rows, const LinearArgs& a, const int8_t* x, const uint8_t* block, int64_t index,
                           float* tile) {
  if (rows >= R) {
    int_tile<D, R>(a, x, block, index, tile);
  } else if constexpr (R > 1) {
    int_tile_up_to<D, R - 1>(rows, a, x, block, index, tile);
  }
}

template <class D>
void linear_int(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  alignas(64) float tile[kIntBlockRows * kPanel];
  const LinearArgs& a = *args;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* w = static_cast<const uint8_t*>(a.weight) + panel * a.steps * D::kBytes;
    for (int64_t row = row_begin; row < row_end; row += kIntBlockRows) {
      const int64_t rows = row_end - row < kIntBlockRows ? row_end - row : kIntBlockRows;
      const int8_t* x = static_cast<const int8_t*>(a.x) + row * a.x_stride;
      if (rows <= kIntFewRows) {
        int_few_up_to<D, kIntFewRows>(rows, a, x, w, tile);
      } else {
        for (int64_t i = 0; i < rows * kPanel; i += W) vstore(tile + i, vset(0.0f));
        const int64_t n_tiles = (rows + kIntRows - 1) / kIntRows, each = (rows + n_tiles - 1) / n_tiles;
        for (int64_t index = 0; index < a.steps; ++index) {
          for (int64_t r = 0; r < rows; r += each) {
            const int64_t n = rows - r < each ? rows - r : each;
            int_tile_up_to<D, kIntRows>(n, a, x + r * a.x_stride, w + index * D::kBytes, index, tile + r * kPanel);
          }
        }
      }
      for (int64_t r = 0; r < rows; ++r) finish_row(a, tile + r * kPanel, row + r, panel);
    }
  }
}
