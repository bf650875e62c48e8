// Integer weights in tiles, from kIntAmxRows rows on. The sum of a group is the same exact integer and what is done
// with it the same sequence of roundings as in linear_int.inl, so the bits are the same and fewer rows go there.
//
// Weights become signed bytes first, a slice of the panel's k at a time: w - 128 or w - 8, which leaves nothing to
// correct, or w for int4-offset. A slice of 512 k and the rows of a tile in it stay in the first-level cache. For a
// tile of 16 rows x 16 columns a group's product takes 16 cycles, but then its sums have to be scaled: four vector
// operations a row on the two units that also carry tiles in and out (measured: 33 cycles to scale, and on top of that
// 10 for two loads, 9 for the product, 13 for the store). About 65 cycles a group is the floor here, four times that of
// the tiles alone. So the f32 sums stay in registers over a slice, and a group's product is made while the one before
// is scaled.
//
// Below 13 rows the vectors of linear_int.inl are as fast: a tile of few rows takes nearly as long as a full one.
constexpr int64_t kIntAmxRows = 13;
constexpr int64_t kSliceBlocks = 8;
constexpr int64_t kPassTiles = 16;  // tiles of rows that pass over an unpacked slice
constexpr int64_t kSliceGroups = 2 * kSliceBlocks;

// A slice of a panel, unpacked.
struct IntSlice {
  alignas(64) int8_t w[kSliceBlocks * kBlock * kPanel];  // [groups][k / 4][32][4]
  alignas(64) float scale[kSliceGroups * kPanel];        // [groups][32]
  alignas(64) float zero[kSliceGroups * kPanel];         // likewise; int4-offset alone
};

template <class D>
inline void unpack_slice(const uint8_t* block, int64_t n_blocks, IntSlice& slice) {
  constexpr int64_t kGroupBytes = kBlock / D::kGroups * kPanel;
  int8_t* w = slice.w;
  float *scale = slice.scale, *zero = slice.zero;
  for (int64_t b = 0; b < n_blocks; ++b, block += D::kBytes) {
    for (int g = 0; g < D::kGroups; ++g, w += kGroupBytes, scale += kPanel, zero += kPanel) {
      const uint8_t* in = block + g * (D::kScales / D::kGroups);
      if constexpr (__is_same(D, Int8)) {
        for (int64_t i = 0; i < kGroupBytes; i += 64) {
          _mm512_store_si512(w + i, _mm512_xor_si512(iload(in + i), _mm512_set1_epi8(static_cast<char>(0x80))));
        }
      } else {
        const I middle = _mm512_set1_epi8(D::kCorrect ? 8 : 0);
        for (int64_t i = 0; i < kGroupBytes / 2; i += 64) {  // k = 4 t + j and 16 + 4 t + j
          const I both = iload(in + i);
          _mm512_store_si512(w + i, _mm512_sub_epi8(ilow_halves(both), middle));
          _mm512_store_si512(w + kGroupBytes / 2 + i, _mm512_sub_epi8(ihigh_halves(both), middle));
        }
      }
      const uint16_t* scales = reinterpret_cast<const uint16_t*>(block + D::kScales) + g * kPanel;
      for (int64_t c = 0; c < kPanel; c += W) {
        vstore(scale + c, vload_f16(scales + c));
        if constexpr (__is_same(D, Int4Offset)) vstore(zero + c, vload_u8(block + D::kZeros + g * kPanel + c));
      }
    }
  }
}

// Up to 16 rows of activations of a slice. Scales and corrections of 16 rows may be read.
struct IntAmxRows {
  const int8_t* x;
  int64_t x_stride;
  const float* scales;  // [groups, meta_stride]
  const int32_t* corrections;
  int64_t meta_stride;
};

// Tiles 0, 1: sums of two groups; 2, 3: activations; 4, 5: weights.
template <class D>
inline TileShapes int_shapes(int rows) {
  constexpr int kStepsOfGroup = 16 / D::kGroups;
  TileShapes s = {};
  s.palette = 1;
  for (int i = 0; i < 2; ++i) {
    s.rows[i] = s.rows[2 + i] = static_cast<uint8_t>(rows), s.rows[4 + i] = kStepsOfGroup;
    s.row_bytes[i] = s.row_bytes[4 + i] = 64, s.row_bytes[2 + i] = 4 * kStepsOfGroup;
  }
  return s;
}

template <class D, int kOf>
inline void int_tile_product(const IntAmxRows& rows, const int8_t* w, int64_t group, int32_t* sum) {
  constexpr int64_t kGroup = kBlock / D::kGroups;
  tile_zero<kOf>();
  tile_load<2 + kOf>(rows.x + group * kGroup, rows.x_stride);
  tile_load<4 + kOf>(w + group * kGroup * kPanel, kPanel * 4);
  tile_multiply_s8<kOf, 2 + kOf, 4 + kOf>();
  tile_store<kOf>(sum, 64);
}

// acc[16 rows] += what the sums of one group stand for.
template <class D>
inline __attribute__((always_inline)) void int_tile_fold(const IntAmxRows& rows, const IntSlice& slice, int64_t group,
                                                         int64_t column, const int32_t* sum, F (&acc)[kAmxHeight]) {
  const F scale = vload(slice.scale + group * kPanel + column);
  const F zero = __is_same(D, Int4Offset) ? vload(slice.zero + group * kPanel + column) : vset(0.0f);
  const float* x_scales = rows.scales + group * rows.meta_stride;
  const int32_t* corrections = rows.corrections + group * rows.meta_stride;
#pragma GCC unroll 16
  for (int r = 0; r < kAmxHeight; ++r) {
    F value = ito_f(iload(sum + r * W));
    if constexpr (__is_same(D, Int4Offset)) {
      float part;
      __builtin_memcpy(&part, corrections + r, sizeof part);
      value = vfma(zero, vset(part), value);
    }
    acc[r] = acc[r] + value * (scale * vset(x_scales[r]));
  }
}

// Columns [column, column + 16) of a slice for one tile of rows; out: [16, 32].
template <class D>
__attribute__((noinline)) void int_tile(const IntAmxRows* rows_, const IntSlice* slice, int64_t n_groups,
                                        int64_t column, bool first, int32_t (*sums)[kAmxHeight * W], float* out,
                                        OutputLines* lines_) {
  const IntAmxRows rows = *rows_;
  OutputLines lines = *lines_;
  const int8_t* w = slice->w + column * 4;
  F acc[kAmxHeight];
#pragma GCC unroll 16
  for (int r = 0; r < kAmxHeight; ++r) acc[r] = first ? vset(0.0f) : vload(out + r * kPanel);
  int_tile_product<D, 0>(rows, w, 0, sums[0]);
  for (int64_t group = 0; group < n_groups; group += 2) {
    for (int i = 0; i < 4; ++i) lines.ask();
    if (group + 1 < n_groups) int_tile_product<D, 1>(rows, w, group + 1, sums[1]);
    int_tile_fold<D>(rows, *slice, group, column, sums[0], acc);
    if (group + 2 < n_groups) int_tile_product<D, 0>(rows, w, group + 2, sums[0]);
    if (group + 1 < n_groups) int_tile_fold<D>(rows, *slice, group + 1, column, sums[1], acc);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kAmxHeight; ++r) vstore(out + r * kPanel, acc[r]);
}

template <class D>
void linear_int_amx(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                    int64_t panel_end) {
  const LinearArgs& a = *args;
  const int64_t all = row_end - row_begin;
  if (all < kIntAmxRows) return linear_int<D>(args, row_begin, row_end, panel_begin, panel_end);
  IntSlice slice;
  alignas(64) float acc[kPassTiles][kAmxHeight * kPanel];
  alignas(64) int32_t sums[2][kAmxHeight * W] = {};
  // Fewer than 16 rows: scales and corrections of zero for those that are not there.
  alignas(64) float few_scales[kSliceGroups * kAmxHeight];
  alignas(64) int32_t few_corrections[kSliceGroups * kAmxHeight];
  const int height = static_cast<int>(all < kAmxHeight ? all : kAmxHeight);
  const TileScope tiles(int_shapes<D>(height));
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* w = static_cast<const uint8_t*>(a.weight) + panel * a.steps * D::kBytes;
    for (int64_t pass = row_begin; pass < row_end; pass += kPassTiles * kAmxHeight) {
      const int64_t left = row_end - pass, n_rows = left < kPassTiles * kAmxHeight ? left : kPassTiles * kAmxHeight;
      const int64_t n_tiles = (n_rows + kAmxHeight - 1) / kAmxHeight;
      // The last tile begins 16 rows before the end, on rows that were done; they are not finished twice.
      const auto first_row = [&](int64_t tile) {
        const int64_t row = pass + tile * kAmxHeight;
        return row + height <= row_end ? row : row_end - height;
      };
      for (int64_t block = 0; block < a.steps; block += kSliceBlocks) {
        const int64_t n_blocks = a.steps - block < kSliceBlocks ? a.steps - block : kSliceBlocks;
        const int64_t n_groups = n_blocks * D::kGroups, group0 = block * D::kGroups;
        unpack_slice<D>(w + block * D::kBytes, n_blocks, slice);
        for (int64_t tile = 0; tile < n_tiles; ++tile) {
          const int64_t row = first_row(tile);
          IntAmxRows rows = {static_cast<const int8_t*>(a.x) + row * a.x_stride + block * kBlock, a.x_stride,
                             a.x_scales + group0 * a.x_meta_stride + row,
                             a.x_corrections + group0 * a.x_meta_stride + row, a.x_meta_stride};
          if (height < kAmxHeight) {
            for (int64_t g = 0; g < n_groups; ++g) {
              const __mmask16 some = lanes_below(height);
              _mm512_store_si512(few_scales + g * kAmxHeight,
                                 _mm512_maskz_loadu_epi32(some, rows.scales + g * rows.meta_stride));
              _mm512_store_si512(few_corrections + g * kAmxHeight,
                                 _mm512_maskz_loadu_epi32(some, rows.corrections + g * rows.meta_stride));
            }
            rows.scales = few_scales, rows.corrections = few_corrections, rows.meta_stride = kAmxHeight;
          }
          const bool last = block + n_blocks == a.steps;
          OutputLines lines = output_lines(a, row, last ? height : 0, panel);
          for (int64_t column = 0; column < kPanel; column += W) {
            int_tile<D>(&rows, &slice, n_groups, column, block == 0, sums, acc[tile] + column, &lines);
            lines.left = 0;
          }
        }
      }
      for (int64_t tile = 0; tile < n_tiles; ++tile) {
        const int64_t row = pass + tile * kAmxHeight, again = row - first_row(tile);
        finish_rows(a, acc[tile] + again * kPanel, row, height - again, panel);
      }
    }
  }
}
