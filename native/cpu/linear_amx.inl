// bf16 times bf16 in tiles, for any number of rows: TDPBF16PS adds in an order of its own, so one row goes the same
// way.
//
//   for each 32 k (16 steps of a pair), ascending:  even = odd = 0
//     for each pair, ascending:                     even = fma(x[2 s], w[2 s], even), odd = fma(x[2 s + 1], .., odd)
//     acc += even + odd
//
// every operation rounded to nearest even, subnormal numbers read and written as zero (Intel SDM, TDPBF16PS).
// cpu_ops_test does the same in scalar code and compares bits.
//
// 32 rows x 32 columns are four tiles of sums, two of activations and two of weights: four loads for four products of
// 16 cycles each, and more independent products than the 52 cycles of one need. A slice of 256 k of a panel stays in
// the first-level cache (16 kB) while rows pass over it, their sums waiting in the second level from slice to slice: a
// tile is loaded in 9 cycles from the first level and in 21 from the second. The last 1 to 15 steps of a weight are
// copied and filled up with zeros.
//
// Up to 16 rows wait for memory. Their weights are asked for a page and a half ahead, because the processor's own
// prefetching stops at the end of a page: 4 % faster steps of one sequence (three alternating runs).
constexpr int64_t kBf16Ahead = 6144;
constexpr int64_t kAmxSteps = 16;    // of a tile
constexpr int kAmxHeight = 16;       // rows of a tile
constexpr int64_t kBf16Slice = 8;    // steps of tiles
constexpr int64_t kBf16Blocks = 16;  // of 32 rows, that pass over a slice

// The lines of the output that a block of rows will write, asked for a few at a time: they are in no near cache by
// then, and asking for all at once would leave no room for other loads.
struct OutputLines {
  const char* line;
  int64_t stride, wide;  // bytes from row to row; whether a row has two lines here
  int64_t left;          // rows
  inline void ask() {
    if (left <= 0) return;
    --left;
    __builtin_prefetch(line, 1);
    if (wide) __builtin_prefetch(line + 64, 1);
    line += stride;
  }
};

inline OutputLines output_lines(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel) {
  const int64_t element = args.store == Store::kBf16 ? 2 : 4,
                columns = args.finish == Finish::kSiluMul ? kPanel / 2 : kPanel;
  return {static_cast<const char*>(args.out) + (row * args.out_stride + panel * columns) * element,
          args.out_stride * element, columns * element > 64, rows};
}

// Tiles 0 to 3: sums [2 halves of the rows][2 of the columns]; 4, 5: activations; 6, 7: weights.
inline TileShapes bf16_shapes(int rows) {
  const int first = rows < kAmxHeight ? rows : kAmxHeight, second = rows - first;
  TileShapes s = {};
  s.palette = 1;
  const int heights[8] = {first, first, second, second, first, second, kAmxSteps, kAmxSteps};
  for (int i = 0; i < 8; ++i) s.rows[i] = static_cast<uint8_t>(heights[i]), s.row_bytes[i] = heights[i] ? 64 : 0;
  return s;
}

// 16 steps of 32 columns; w_bytes: from step to step. second: there are more than 16 rows.
inline void bf16_tile_step(const char* x, int64_t x_bytes, const char* w, int64_t w_bytes, bool second) {
  tile_load<6>(w, w_bytes);
  tile_load<4>(x, x_bytes);
  tile_multiply_bf16<0, 4, 6>();
  tile_load<7>(w + 64, w_bytes);
  tile_multiply_bf16<1, 4, 7>();
  if (!second) return;
  tile_load<5>(x + kAmxHeight * x_bytes, x_bytes);
  tile_multiply_bf16<2, 5, 6>();
  tile_multiply_bf16<3, 5, 7>();
}

// The sums of a block: 32 columns of rows `stride` floats apart.
inline void bf16_sums_load(const float* sums, int64_t stride, bool first, bool second) {
  if (first) {
    tile_zero<0>(), tile_zero<1>();
    if (second) tile_zero<2>(), tile_zero<3>();
    return;
  }
  const float* below = sums + kAmxHeight * stride;
  tile_load<0>(sums, stride * 4), tile_load<1>(sums + W, stride * 4);
  if (second) tile_load<2>(below, stride * 4), tile_load<3>(below + W, stride * 4);
}

inline void bf16_sums_store(float* sums, int64_t stride, bool second) {
  float* below = sums + kAmxHeight * stride;
  tile_store<0>(sums, stride * 4), tile_store<1>(sums + W, stride * 4);
  if (second) tile_store<2>(below, stride * 4), tile_store<3>(below + W, stride * 4);
}

void linear_bf16_amx(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                     int64_t panel_end) {
  constexpr int64_t kRows = 2 * kAmxHeight, kStepBytes = kPanel * kAmxSteps * 4;
  alignas(64) float acc[kBf16Blocks][kRows * kPanel];
  alignas(64) char last_w[kStepBytes] = {}, last_x[kRows * 64] = {};
  if (row_begin >= row_end) return;
  int shaped = static_cast<int>(row_end - row_begin < kRows ? row_end - row_begin : kRows);
  TileScope tiles(bf16_shapes(shaped));
  const bool few = row_end - row_begin <= kAmxHeight;
  const int64_t whole = args->steps / kAmxSteps, rest = args->steps % kAmxSteps, x_bytes = args->x_stride * 2;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const char* w = static_cast<const char*>(args->weight) + panel * args->steps * kPanel * 4;
    if (rest) __builtin_memcpy(last_w, w + whole * kStepBytes, static_cast<size_t>(rest * kPanel * 4));
    for (int64_t pass = row_begin; pass < row_end; pass += kBf16Blocks * kRows) {
      const int64_t pass_end = row_end - pass < kBf16Blocks * kRows ? row_end : pass + kBf16Blocks * kRows;
      for (int64_t slice = 0; slice == 0 || slice < whole; slice += kBf16Slice) {
        const int64_t end = whole - slice <= kBf16Slice ? whole : slice + kBf16Slice;
        for (int64_t row = pass; row < pass_end; row += kRows) {
          const int rows = static_cast<int>(pass_end - row < kRows ? pass_end - row : kRows);
          const bool second = rows > kAmxHeight;
          if (rows != shaped) tiles.shape(bf16_shapes(rows)), shaped = rows;
          const char* x = static_cast<const char*>(args->x) + row * x_bytes;
          float* sums = acc[(row - pass) / kRows];
          bf16_sums_load(sums, kPanel, slice == 0, second);
          OutputLines lines = output_lines(*args, row, end == whole ? rows : 0, panel);
          for (int64_t s = slice; s < end; ++s) {
            bf16_tile_step(x + s * 64, x_bytes, w + s * kStepBytes, kPanel * 4, second);
            for (int i = 0; i < 4; ++i) lines.ask();
            if (few) {
              const char* ahead = w + s * kStepBytes + kBf16Ahead;
#pragma GCC unroll 32
              for (int64_t at = 0; at < kStepBytes; at += 64) __builtin_prefetch(ahead + at, 0, 3);
            }
          }
          if (end == whole && rest) {
            for (int r = 0; r < rows; ++r) {
              __builtin_memcpy(last_x + r * 64, x + r * x_bytes + whole * 64, static_cast<size_t>(rest * 4));
            }
            bf16_tile_step(last_x, 64, last_w, kPanel * 4, second);
          }
          bf16_sums_store(sums, kPanel, second);
          if (end < whole) continue;
          finish_rows(*args, sums, row, rows, panel);
        }
      }
    }
  }
}
