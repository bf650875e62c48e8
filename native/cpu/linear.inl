// out[row, column] = sum over k of x[row, k] weight[column, k], then the epilogue.
//
// A panel of 32 output columns is read once per group of rows and stays in the second-level cache while the groups pass
// (32 x 1024 bf16 = 64 kB); x comes from the first or second level. With 512-bit vectors a tile is 12 rows x 2 vectors:
// 24 accumulators cover the latency of the multiply-add and leave registers for two weights and a broadcast. With fewer
// registers it is 5 x 2 (8 lanes) or 4 x 2. One or two rows take the whole panel width at once, so that memory streams
// in one direction. While a few rows wait for memory rather than compute, lower tiles of equal height are faster.
constexpr int kWideRows = W == 16 ? 12 : W == 8 ? 5 : 4;
constexpr int kWideVectors = 2;
constexpr int kFirstRows = W == 16 ? 8 : 4;
constexpr int kFewRows = 2;
constexpr int kFewVectors = kPanel / W < 4 ? static_cast<int>(kPanel) / W : 4;

inline void finish_row(const LinearArgs& args, const float* tile, int64_t row, int64_t panel) {
  if (args.finish == Finish::kSiluMul) {  // columns 0..15 are gate, 16..31 up
    const int64_t n0 = panel * (kPanel / 2);
    char* out = static_cast<char*>(args.out) + row * args.out_stride * (args.store == Store::kBf16 ? 2 : 4);
    for (int64_t c = 0; c < kPanel / 2 && n0 + c < args.n; c += W) {
      const F value = vsilu(vload(tile + c)) * vload(tile + kPanel / 2 + c);
      store_as(out, n0 + c, value, lanes_left(args.n - n0 - c), args.store);
    }
    return;
  }
  const int64_t n0 = panel * kPanel;
  if (args.finish == Finish::kAddTo) {
    float* out = static_cast<float*>(args.out) + row * args.out_stride + n0;
    for (int64_t c = 0; c < kPanel && n0 + c < args.n; c += W) {
      const int n = lanes_left(args.n - n0 - c);
      vstore_n(out + c, vload_n(out + c, n) + vload(tile + c), n);
    }
    return;
  }
  char* out = static_cast<char*>(args.out) + row * args.out_stride * (args.store == Store::kBf16 ? 2 : 4);
  for (int64_t c = 0; c < kPanel && n0 + c < args.n; c += W) {
    store_as(out, n0 + c, vload(tile + c), lanes_left(args.n - n0 - c), args.store);
  }
}

// Asks for the part of the output that a tile of many rows will write: its lines are far apart and out of the caches by
// then, and the product takes long enough for them to arrive. Always inlined: GCC takes a function that only prefetches
// for one without effect.
inline __attribute__((always_inline)) void prefetch_output(const LinearArgs& args, int64_t row, int64_t rows,
                                                           int64_t panel) {
  const int64_t element = args.store == Store::kBf16 ? 2 : 4,
                columns = args.finish == Finish::kSiluMul ? kPanel / 2 : kPanel;
  const char* out = static_cast<const char*>(args.out) + (row * args.out_stride + panel * columns) * element;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t at = 0; at < columns * element; at += 64)
      __builtin_prefetch(out + r * args.out_stride * element + at, 1);
  }
}

template <class M>
void linear(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  alignas(64) float tile[kWideRows * kPanel];
  const int64_t ldb = kPanel * M::kDepth;
  const int64_t all = row_end - row_begin, most = all <= 3 * kFirstRows ? kFirstRows : kWideRows;
  if (all <= 0) return;
  const int64_t n_tiles = (all + most - 1) / most, each = (all + n_tiles - 1) / n_tiles;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const typename M::B* b = static_cast<const typename M::B*>(args->weight) + panel * args->steps * ldb;
    for (int64_t row = row_begin; row < row_end; row += each) {
      const int64_t rows = row_end - row < each ? row_end - row : each;
      if (most == kWideRows) prefetch_output(*args, row, rows, panel);
      const typename M::A* a = static_cast<const typename M::A*>(args->x) + row * args->x_stride;
      if (rows <= kFewRows) {
        product_block<M, kFewRows, kFewVectors>(rows, kPanel, a, args->x_stride, b, ldb, args->steps, tile, kPanel,
                                                nullptr);
      } else {
        product_block<M, kWideRows, kWideVectors>(rows, kPanel, a, args->x_stride, b, ldb, args->steps, tile, kPanel,
                                                  nullptr);
      }
      for (int64_t r = 0; r < rows; ++r) finish_row(*args, tile + r * kPanel, row + r, panel);
    }
  }
}
