// AMX: eight tiles of up to 16 rows of 64 bytes, and products of tiles into tiles. A tile of A holds rows of
// activations, one of B the words of four bytes (two bf16, four integers) that weights.h interleaves: 16 steps of 16
// columns, which a packed panel has at a stride of 128 bytes. Written as assembly, so that the tile may be a template's
// argument, and with memory named: the compiler must not move what a tile reads or writes across.

struct alignas(64) TileShapes {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

template <int kTile>
inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// C += A B, bf16 pairs; the order of the sums is told in linear_amx.inl.
template <int kC, int kA, int kB>
inline void tile_multiply_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
// C += A B, four signed bytes a word, exact.
template <int kC, int kA, int kB>
inline void tile_multiply_s8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

// The tiles of this thread for as long as it lives. A kernel leaves none behind: the operating system would save them
// at every change of threads.
struct TileScope {
  explicit TileScope(const TileShapes& shapes) { shape(shapes); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
  ~TileScope() { asm volatile("tilerelease" : : : "memory"); }
  void shape(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes) : "memory"); }
};

// finish_row for several rows [rows, 32] of `sums`, without its questions where the panel is whole: they would cost as
// much as a few products.
inline void finish_rows(const LinearArgs& args, const float* sums, int64_t row, int64_t rows, int64_t panel) {
  const bool whole = (panel + 1) * (args.finish == Finish::kSiluMul ? kPanel / 2 : kPanel) <= args.n;
  const bool add = args.finish == Finish::kAddTo;
  if (!whole || args.finish == Finish::kSiluMul || args.store != Store::kF32) {
    for (int64_t r = 0; r < rows; ++r) finish_row(args, sums + r * kPanel, row + r, panel);
    return;
  }
  float* out = static_cast<float*>(args.out) + row * args.out_stride + panel * kPanel;
  for (int64_t r = 0; r < rows; ++r, out += args.out_stride, sums += kPanel) {
    const F a = vload(sums), b = vload(sums + W);
    vstore(out, add ? vload(out) + a : a);
    vstore(out + W, add ? vload(out + W) + b : b);
  }
}
