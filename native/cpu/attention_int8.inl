// Attention over an int8 cache: as attention.inl, and the layouts are in kernels.h. A query row is rounded to s8 with
// one scale; a score is f32(exact integer product) * (query's scale * key's scale). The weights of the softmax stay
// f32, are multiplied by the values' scales once a row, and the values become f32 (exactly) on their way into fused
// multiply-adds, keys ascending. Many rows convert a block's values once for all; the bits are the same.

// f32 times s8, a step is one key.
struct F32xS8 {
  using A = float;
  using B = int8_t;
  static constexpr int kDepth = 1;
  static constexpr int kParts = 1;
  using Vector = F;
  static inline Vector load_b(const B* b) { return vload_s8(b); }
  static inline F multiply_add(F acc, const A* a, Vector b) { return vfma(vset(a[0]), b, acc); }
  static inline F first_half(F acc, const A* a, Vector b) { return multiply_add(acc, a, b); }
};

// From so many rows on a block's values are converted once for all of them.
constexpr int64_t kConvertRows = 3 * kScoreRows;

struct Int8Scratch {
  int8_t* q;              // [rows, v_cols]: zeros from head_dim on
  float* q_scale;         // [rows]
  int32_t* q_correction;  // [rows]: what the product starts from, because keys are kept + 128
  float* values;          // [64, v_cols] of the block, in f32
};

// Behind the scratch of the other caches.
inline Int8Scratch cut_int8_scratch(char* at, int64_t rows, int64_t v_cols) {
  const auto take = [&at](int64_t bytes) {
    char* mine = at;
    at += (bytes + 63) / 64 * 64;
    return mine;
  };
  Int8Scratch s;
  s.values = reinterpret_cast<float*>(take(kKeys * v_cols * 4));
  s.q_scale = reinterpret_cast<float*>(take(rows * 4));
  s.q_correction = reinterpret_cast<int32_t*>(take(rows * 4));
  s.q = reinterpret_cast<int8_t*>(take(rows * v_cols));
  return s;
}

inline void quantise_query(const AttentionArgs& a, const Int8Scratch& s, int64_t row, const void* in, int64_t first) {
  I top = iset(0);
  for (int64_t c = 0; c < a.head_dim; c += W) {
    top = imax(top, imagnitude_bits(load_as(in, first + c, lanes_left(a.head_dim - c), a.q_store)));
  }
  const int32_t bits = ihmax(top);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  const bool finite = bits < 0x7f800000, counts = finite && largest >= 7.888609052210118e-31f;
  const F inverse = vset(counts ? 127.0f / largest : 0.0f);
  I sum = iset(0);
  for (int64_t c = 0; c < a.v_cols; c += W) {
    const int64_t left = a.head_dim - c;
    const F v = left > 0 ? load_as(in, first + c, lanes_left(left), a.q_store) : vset(0.0f);
    const I q = counts ? iround(v * inverse) : iset(0);
    sum = iadd(sum, q);
    istore_s8(s.q + row * a.v_cols + c, q);
  }
  s.q_scale[row] = !finite ? __builtin_nanf("") : counts ? largest / 127.0f : 0.0f;
  s.q_correction[row] = kUnsignedDot ? -128 * ihsum(sum) : 0;
}

// scores[R, 64] of one block; `ahead` is asked for meanwhile, as many bytes as the keys have.
template <int R>
inline void int8_score_rows(const int8_t* q, int64_t ldq, const float* q_scale, const int32_t* q_correction,
                            const uint8_t* keys, const float* k_scale, int64_t steps, float* scores,
                            const char* ahead) {
  constexpr int C = kScoreVectors;
  for (int64_t column = 0; column < kKeys; column += C * W) {
    I sum[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = iset(q_correction[r]);
    }
    for (int64_t step = 0; step < steps; ++step) {
      const uint8_t* k = keys + (step * kKeys + column) * 4;
      I key[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) key[c] = iload(k + c * W * 4);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        int32_t four;
        __builtin_memcpy(&four, q + r * ldq + step * 4, sizeof four);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sum[r][c] = idot8(sum[r][c], key[c], iset(four));
      }
      if (ahead) {
#pragma GCC unroll 8
        for (int at = 0; at < C * W * 4; at += 64) {
          __builtin_prefetch(ahead + (step * kKeys + column) * 4 + at, 0, 2);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const F scale = vload(k_scale + column + c * W) * vset(q_scale[r]);
        vstore(scores + r * kKeys + column + c * W, ito_f(sum[r][c]) * scale);
      }
    }
  }
}

template <int R>
inline void int8_scores_up_to(int64_t rows, const int8_t* q, int64_t ldq, const float* q_scale,
                              const int32_t* q_correction, const uint8_t* keys, const float* k_scale, int64_t steps,
                              float* scores, const char* ahead) {
  if (rows >= R) {
    int8_score_rows<R>(q, ldq, q_scale, q_correction, keys, k_scale, steps, scores, ahead);
  } else if constexpr (R > 1) {
    int8_scores_up_to<R - 1>(rows, q, ldq, q_scale, q_correction, keys, k_scale, steps, scores, ahead);
  }
}

inline void prefetch_scales(const void* scales) {
  for (int64_t at = 0; at < kKeys * 4; at += 64) __builtin_prefetch(static_cast<const char*>(scales) + at, 0, 2);
}

// Where a block's scales lie: behind its keys or values.
inline const float* key_scales(const AttentionArgs& a, const uint8_t* keys) {
  return reinterpret_cast<const float*>(keys + kKeys * ((a.head_dim + 3) / 4 * 4));
}
inline const float* value_scales(const AttentionArgs& a, const int8_t* values) {
  return reinterpret_cast<const float*>(values + kKeys * a.v_cols);
}

// As attend_block in attention.inl.
inline void attend_block_int8(const AttentionArgs& a, const AttentionScratch& s, const Int8Scratch& s8, int32_t block,
                              bool first, float scale) {
  const int64_t group = a.group, rows = a.n_positions * group;
  const int32_t key0 = block * static_cast<int32_t>(kKeys);
  const int64_t skipped = key0 > a.position ? key0 - a.position : 0;
  const uint8_t* all_keys = static_cast<const uint8_t*>(a.keys);
  const uint8_t* keys = all_keys + a.block_table[block] * a.k_block_stride;
  const int8_t* values = static_cast<const int8_t*>(a.values) + a.block_table[block] * a.v_block_stride;
  const float *k_scale = key_scales(a, keys), *v_scale = value_scales(a, values);
  const int64_t row0 = skipped * group, steps = (a.head_dim + 3) / 4;
  const char *values_ahead = nullptr, *keys_ahead = nullptr;
  if (rows <= kScoreRows) {
    const int32_t last = (a.position + a.n_positions - 1) / static_cast<int32_t>(kKeys);
    const uint8_t* next = all_keys + a.block_table[block < last ? block + 1 : block] * a.k_block_stride;
    values_ahead = reinterpret_cast<const char*>(values), keys_ahead = reinterpret_cast<const char*>(next);
    prefetch_scales(v_scale), prefetch_scales(key_scales(a, next));
  }
  for (int64_t row = row0; row < rows; row += kScoreRows) {
    int8_scores_up_to<kScoreRows>(rows - row, s8.q + row * a.v_cols, a.v_cols, s8.q_scale + row, s8.q_correction + row,
                                  keys, k_scale, steps, s.scores + row * kKeys, values_ahead);
  }
  const bool convert = rows - row0 >= kConvertRows;
  if (convert) {
    const int64_t seen = a.position + a.n_positions - key0, n = (seen < kKeys ? seen : kKeys) * a.v_cols;
    for (int64_t i = 0; i < n; i += W) vstore(s8.values + i, vload_s8(values + i));
  }
  for (int64_t p = skipped; p < a.n_positions;) {
    const int64_t visible = a.position + p - key0 + 1;
    const int n_keys = visible < kKeys ? static_cast<int>(visible) : static_cast<int>(kKeys);
    const int64_t end = n_keys < kKeys ? p + 1 : a.n_positions;
    for (int64_t row = p * group; row < end * group; ++row) {
      softmax_block<F32xF32>(s, row, n_keys, first, scale);
      float* weights = static_cast<float*>(s.weights) + row * kKeys;
      for (int64_t i = 0; i < kKeys; i += W) vstore(weights + i, vload(weights + i) * vload(v_scale + i));
    }
    if (convert) {
      add_values<F32xF32>(s, p * group, (end - p) * group, n_keys, first, s8.values, a.v_cols, nullptr);
    } else {
      add_values<F32xS8>(s, p * group, (end - p) * group, n_keys, first, values, a.v_cols, keys_ahead);
    }
    p = end;
  }
}

void attention_int8(const AttentionArgs* args) {
  const AttentionArgs& a = *args;
  const int64_t rows = a.n_positions * int64_t{a.group}, bytes = a.q_store == Store::kBf16 ? 2 : 4;
  const AttentionScratch s = cut_scratch(a.scratch, rows, a.head_dim, a.v_cols);
  const Int8Scratch s8 = cut_int8_scratch(s.end, rows, a.v_cols);
  const float scale = score_scale(a.head_dim);
  for (int64_t row = 0; row < rows; ++row) {
    const char* in = static_cast<const char*>(a.q) + row / a.group * a.q_stride * bytes;
    quantise_query(a, s8, row, in, row % a.group * a.head_dim);
  }
  walk_splits(a, s, [&](int32_t block, bool first) { attend_block_int8(a, s, s8, block, first, scale); });
}
