// Attention over a bf16 cache in tiles: as attention.inl, whose blocks, splits and softmax it uses. A block of the
// cache is laid out as tiles are read: K as 16 pairs along head_dim x 16 keys, V as 16 pairs of keys x 16 columns.
//
// A block that a row sees the whole of is multiplied in tiles, whatever the number of rows. Of the block with the row's
// own position it sees a part, and what lies behind may be anything, NaN included: the scores are masked, as there, and
// the values go through add_values, key by key. Which block is which depends on the position alone.
struct Bf16Queries {  // for load_queries
  using A = uint16_t;
  static inline void store_a(A* a, F v, int n) { vstore_bf16_n(a, v, n); }
};

constexpr int64_t kTileStep = 2 * kAmxSteps;  // k of a product of tiles

// The tiles' shapes follow the rows that are left.
struct AttentionTiles {
  TileScope scope;
  int shaped;
  explicit AttentionTiles(int rows) : scope(bf16_shapes(rows)), shaped(rows) {}
  inline void shape(int rows) {
    if (rows != shaped) scope.shape(bf16_shapes(rows)), shaped = rows;
  }
};

// As many bytes of `ahead` as a product of tiles reads of its block.
inline __attribute__((always_inline)) void ask_ahead(const char*& ahead) {
  if (!ahead) return;
#pragma GCC unroll 32
  for (int at = 0; at < 2048; at += 64) __builtin_prefetch(ahead + at, 0, 2);
  ahead += 2048;
}

// out[rows, columns] (+)= a[rows, steps * 32] b[steps][16][columns][2], rows up to 32.
inline void tile_block(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t columns, int64_t steps, float* out,
                       bool first, bool second, const char*& ahead) {
  const char *x = reinterpret_cast<const char*>(a), *w = reinterpret_cast<const char*>(b);
  for (int64_t c = 0; c < columns; c += 2 * W) {
    bf16_sums_load(out + c, columns, first, second);
    for (int64_t s = 0; s < steps; ++s) {
      bf16_tile_step(x + s * 64, lda * 2, w + (s * kAmxSteps * columns + c) * 4, columns * 4, second);
      ask_ahead(ahead);
    }
    bf16_sums_store(out + c, columns, second);
  }
}

// softmax_block for up to 16 rows that see all 64 keys; weights become bf16. The steps that a row does for one number,
// the 16 do together.
inline void softmax_tile(const AttentionScratch& s, int64_t row0, int rows, bool first, float scale) {
  alignas(64) float largest[kAmxHeight] = {}, sums[kAmxHeight] = {};
  for (int r = 0; r < rows; ++r) {
    const float* scores = s.scores + (row0 + r) * kKeys;
    const F a = vmax(vload(scores), vload(scores + W)), b = vmax(vload(scores + 2 * W), vload(scores + 3 * W));
    largest[r] = vhmax(vmax(a, b)) * scale;
  }
  const F old_max = first ? vset(-__builtin_inff()) : vload_n(s.split_max + row0, rows);
  const F new_max = vmax(old_max, vload(largest));
  const F rescale = first ? vset(0.0f) : vexp2(old_max - new_max);
  vstore(largest, new_max);
  for (int r = 0; r < rows; ++r) {
    const float* scores = s.scores + (row0 + r) * kKeys;
    uint16_t* weights = static_cast<uint16_t*>(s.weights) + (row0 + r) * kKeys;
    F sum = vset(0.0f);
#pragma GCC unroll 4
    for (int i = 0; i < kKeys; i += W) {
      const __m256i weight = vto_bf16(vexp2(vload(scores + i) * vset(scale) - vset(largest[r])));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + i), weight);
      sum = sum + vfrom_bf16(weight);
    }
    sums[r] = vsum(sum);
  }
  const F sum = first ? vload(sums) : vload_n(s.split_sum + row0, rows) * rescale + vload(sums);
  vstore_n(s.split_sum + row0, sum, rows);
  vstore_n(s.split_max + row0, new_max, rows);
  vstore_n(s.rescale + row0, rescale, rows);
}

inline void rescale_values(const AttentionScratch& s, int64_t row, int64_t v_cols) {
  const F rescale = vset(s.rescale[row]);
  if (s.rescale[row] == 1.0f) return;
  float* out = s.split_o + row * v_cols;
  for (int64_t c = 0; c < v_cols; c += W) vstore(out + c, vload(out + c) * rescale);
}

// As attend_block in attention.inl.
inline void attend_block_amx(const AttentionArgs& a, const AttentionScratch& s, AttentionTiles& tiles, int32_t block,
                             bool first, float scale) {
  constexpr int64_t kRows = 2 * kAmxHeight;
  const int64_t group = a.group, rows = a.n_positions * group;
  const int32_t key0 = block * static_cast<int32_t>(kKeys);
  const int64_t skipped = key0 > a.position ? key0 - a.position : 0;  // positions before the block
  const uint16_t* all_keys = static_cast<const uint16_t*>(a.keys);
  const uint16_t* keys = all_keys + a.block_table[block] * a.k_block_stride;
  const uint16_t* values = static_cast<const uint16_t*>(a.values) + a.block_table[block] * a.v_block_stride;
  const char *values_ahead = nullptr, *keys_ahead = nullptr;
  if (rows <= kScoreRows) {
    const int32_t last = (a.position + a.n_positions - 1) / static_cast<int32_t>(kKeys);
    const int32_t next = block < last ? block + 1 : block;
    values_ahead = reinterpret_cast<const char*>(values);
    keys_ahead = reinterpret_cast<const char*>(all_keys + a.block_table[next] * a.k_block_stride);
  }
  const uint16_t *q = static_cast<const uint16_t*>(s.q), *weights = static_cast<const uint16_t*>(s.weights);
  for (int64_t row = skipped * group; row < rows; row += kRows) {
    const int n = static_cast<int>(rows - row < kRows ? rows - row : kRows);
    tiles.shape(n);
    tile_block(q + row * a.head_dim, a.head_dim, keys, kKeys, a.head_dim / kTileStep, s.scores + row * kKeys, true,
               n > kAmxHeight, values_ahead);
  }
  int64_t p = skipped;
  for (; p < a.n_positions && a.position + p - key0 + 1 < kKeys; ++p) {
    const int n_keys = static_cast<int>(a.position + p - key0 + 1);
    for (int64_t row = p * group; row < (p + 1) * group; ++row) softmax_block<F32xBf16>(s, row, n_keys, first, scale);
    add_values<F32xBf16>(s, p * group, group, n_keys, first, values, a.v_cols, nullptr);
  }
  for (int64_t row = p * group; row < rows; row += kAmxHeight) {
    softmax_tile(s, row, static_cast<int>(rows - row < kAmxHeight ? rows - row : kAmxHeight), first, scale);
  }
  for (int64_t row = first ? rows : p * group; row < rows; ++row) rescale_values(s, row, a.v_cols);
  for (int64_t row = p * group; row < rows; row += kRows) {
    const int n = static_cast<int>(rows - row < kRows ? rows - row : kRows);
    tiles.shape(n);
    tile_block(weights + row * kKeys, kKeys, values, a.v_cols, kKeys / kTileStep, s.split_o + row * a.v_cols, first,
               n > kAmxHeight, keys_ahead);
  }
}

void attention_bf16_amx(const AttentionArgs* args) {
  const AttentionArgs& a = *args;
  if (a.head_dim % kTileStep != 0) return attention<F32xBf16>(args);
  const int64_t rows = int64_t{a.n_positions} * a.group;
  const AttentionScratch s = cut_scratch(a.scratch, rows, a.head_dim, a.v_cols);
  const float scale = score_scale(a.head_dim);
  load_queries<Bf16Queries>(a, s.q);
  AttentionTiles tiles(static_cast<int>(rows < 2 * kAmxHeight ? rows : 2 * kAmxHeight));
  walk_splits(a, s, [&](int32_t block, bool first) { attend_block_amx(a, s, tiles, block, first, scale); });
}
