// out[row] = sum over keys of softmax(q K^T / sqrt(head_dim)) V, causal, one pass over blocks of 64 keys with a running
// maximum (online softmax: Milakov and Gimelshein, arXiv 1805.02867; blocks as in FlashAttention, arXiv 2205.14135).
//
// A tile is up to 64 query rows: consecutive positions times the heads that share one KV head, so a K or V block is
// read once for all of them. Blocks and splits lie at absolute positions. A split is started from nothing and folded
// into the total in ascending order, whether it was computed here or by another thread: a row's bits depend on its
// position alone. Keys past a row's own position are masked by selection; values past it are never multiplied. Weights
// of the softmax are rounded to bf16 when the cache is bf16, and their sum is that of the rounded ones.
constexpr int kScoreRows = W == 16 ? 6 : 4;
constexpr int kScoreVectors = W == 16 ? 4 : 2;

struct AttentionScratch {
  void* q;                                                         // [rows, head_dim] in the product's input type
  void* weights;                                                   // [rows, 64] likewise
  float* scores;                                                   // [rows, 64]
  float* split_o;                                                  // [rows, v_cols] of the current split
  float* total_o;                                                  // [rows, v_cols]
  float *split_max, *split_sum, *total_max, *total_sum, *rescale;  // [rows]
  char* end;
};

inline AttentionScratch cut_scratch(void* base, int64_t rows, int64_t head_dim, int64_t v_cols) {
  char* at = static_cast<char*>(base);
  const auto take = [&at](int64_t floats) {
    char* mine = at;
    at += (floats * 4 + 63) / 64 * 64;
    return reinterpret_cast<float*>(mine);
  };
  AttentionScratch s;
  s.q = take(rows * head_dim);
  s.weights = take(rows * kKeys);
  s.scores = take(rows * kKeys);
  s.split_o = take(rows * v_cols);
  s.total_o = take(rows * v_cols);
  s.split_max = take(rows), s.split_sum = take(rows), s.total_max = take(rows), s.total_sum = take(rows);
  s.rescale = take(rows);
  s.end = at;
  return s;
}

// One row's 64 scores -> weights; updates maximum and sum and says by how much the values so far shrink.
template <class M>
inline void softmax_block(const AttentionScratch& s, int64_t row, int n_keys, bool first, float scale) {
  const float* scores = s.scores + row * kKeys;
  const float minus_infinity = -__builtin_inff();
  F v[kKeys / W];
  F largest = vset(minus_infinity);
#pragma GCC unroll 16
  for (int i = 0; i < kKeys / W; ++i) {
    v[i] = vkeep_first(vload(scores + i * W) * vset(scale), n_keys - i * W, minus_infinity);
    largest = vmax(largest, v[i]);
  }
  const float block_max = vhmax(largest);
  const float old_max = first ? minus_infinity : s.split_max[row];
  const float new_max = old_max > block_max ? old_max : block_max;
  typename M::A* weights = static_cast<typename M::A*>(s.weights) + row * kKeys;
  F sum = vset(0.0f);
#pragma GCC unroll 16
  for (int i = 0; i < kKeys / W; ++i) {
    const F weight = vkeep_first(M::value(vexp2(v[i] - vset(new_max))), n_keys - i * W, 0.0f);
    sum = sum + weight;
    M::store_a(weights + i * W, weight, W);
  }
  const float rescale = first ? 0.0f : exp2_of(old_max - new_max);
  s.rescale[row] = rescale;
  s.split_sum[row] = first ? vsum(sum) : s.split_sum[row] * rescale + vsum(sum);
  s.split_max[row] = new_max;
}

// split_o[row] = rescale * split_o[row] + weights[row, 0..n_keys) V for `rows` rows that see the same keys.
template <class M>
inline void add_values(const AttentionScratch& s, int64_t row, int64_t rows, int n_keys, bool first,
                       const typename M::B* values, int64_t v_cols, const char* ahead) {
  const typename M::A* weights = static_cast<const typename M::A*>(s.weights) + row * kKeys;
  float* out = s.split_o + row * v_cols;
  const int64_t ldb = v_cols * M::kDepth, steps = n_keys / M::kDepth;
  const float* scale = first ? nullptr : s.rescale + row;
  const int64_t wide = v_cols / (kScoreVectors * W) * (kScoreVectors * W);  // head_dim is a multiple of 64 as a rule
  product_block<M, kScoreRows, kScoreVectors>(rows, wide, weights, kKeys, values, ldb, steps, out, v_cols, scale,
                                              ahead);
  product_block<M, kScoreRows, 1>(rows, v_cols - wide, weights, kKeys, values + wide * M::kDepth, ldb, steps,
                                  out + wide, v_cols, scale);
  if (n_keys % M::kDepth == 0) return;
  // The last pair holds one key; its other half may never have been written.
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < v_cols; c += W) {
      const typename M::Vector b = M::load_b(values + steps * ldb + c * M::kDepth);
      vstore(out + r * v_cols + c, M::first_half(vload(out + r * v_cols + c), weights + r * kKeys + n_keys - 1, b));
    }
  }
}

// total (max, sum, o) += split (max, sum, o); the first split is copied.
inline void fold_split(float* total_max, float* total_sum, float* total_o, float split_max, float split_sum,
                       const float* split_o, int64_t v_cols, bool first) {
  if (first) {
    *total_max = split_max, *total_sum = split_sum;
    for (int64_t c = 0; c < v_cols; c += W) vstore(total_o + c, vload(split_o + c));
    return;
  }
  const float new_max = *total_max > split_max ? *total_max : split_max;
  const float old_scale = exp2_of(*total_max - new_max), split_scale = exp2_of(split_max - new_max);
  *total_sum = *total_sum * old_scale + split_sum * split_scale;
  *total_max = new_max;
  for (int64_t c = 0; c < v_cols; c += W) {
    vstore(total_o + c, vfma(vload(split_o + c), vset(split_scale), vload(total_o + c) * vset(old_scale)));
  }
}

inline void write_row(void* out, int64_t at, const float* o, float sum, int64_t head_dim, Store store) {
  for (int64_t c = 0; c < head_dim; c += W) {
    store_as(out, at + c, vload(o + c) / vset(sum), lanes_left(head_dim - c), store);
  }
}

// All rows of the tile over one block of keys. With few rows it waits for memory, and a block's K and V are too short
// for the processor to see them coming: V is asked for while K is multiplied, and the next block's K meanwhile.
template <class M>
inline void attend_block(const AttentionArgs& a, const AttentionScratch& s, int32_t block, bool first, float scale) {
  const int64_t group = a.group, rows = a.n_positions * group;
  const int32_t key0 = block * static_cast<int32_t>(kKeys);
  const int64_t skipped = key0 > a.position ? key0 - a.position : 0;  // positions before the block
  const typename M::B* keys = static_cast<const typename M::B*>(a.keys) + a.block_table[block] * a.k_block_stride;
  const typename M::B* values = static_cast<const typename M::B*>(a.values) + a.block_table[block] * a.v_block_stride;
  const int64_t row0 = skipped * group;
  const char *values_ahead = nullptr, *keys_ahead = nullptr;
  if (rows <= kScoreRows) {
    const int32_t last = (a.position + static_cast<int32_t>(a.n_positions) - 1) / static_cast<int32_t>(kKeys);
    values_ahead = reinterpret_cast<const char*>(values);
    const int32_t next = block < last ? block + 1 : block;
    keys_ahead = reinterpret_cast<const char*>(static_cast<const typename M::B*>(a.keys) +
                                               a.block_table[next] * a.k_block_stride);
  }
  product_block<M, kScoreRows, kScoreVectors>(
      rows - row0, kKeys, static_cast<const typename M::A*>(s.q) + row0 * a.head_dim, a.head_dim, keys,
      kKeys * M::kDepth, a.head_dim / M::kDepth, s.scores + row0 * kKeys, kKeys, nullptr, values_ahead);
  for (int64_t p = skipped; p < a.n_positions;) {
    const int64_t visible = a.position + p - key0 + 1;
    const int n_keys = visible < kKeys ? static_cast<int>(visible) : static_cast<int>(kKeys);
    const int64_t end = n_keys < kKeys ? p + 1 : a.n_positions;  // later positions see the whole block as well
    for (int64_t row = p * group; row < end * group; ++row) softmax_block<M>(s, row, n_keys, first, scale);
    add_values<M>(s, p * group, (end - p) * group, n_keys, first, values, a.v_cols, keys_ahead);
    p = end;
  }
}

template <class M>
inline void load_queries(const AttentionArgs& a, void* q) {
  const int64_t bytes = a.q_store == Store::kBf16 ? 2 : 4;
  typename M::A* out = static_cast<typename M::A*>(q);
  for (int64_t p = 0; p < a.n_positions; ++p) {
    const char* in = static_cast<const char*>(a.q) + p * a.q_stride * bytes;
    for (int64_t g = 0; g < a.group; ++g) {
      for (int64_t c = 0; c < a.head_dim; c += W) {
        const int n = lanes_left(a.head_dim - c);
        M::store_a(out + (p * a.group + g) * a.head_dim + c, load_as(in, g * a.head_dim + c, n, a.q_store), n);
      }
    }
  }
}

// log2(e) / sqrt(head_dim)
inline float score_scale(int32_t head_dim) {
  return static_cast<float>(1.4426950408889634 / __builtin_sqrt(static_cast<double>(head_dim)));
}

// attend(block, first of its split) for every block, splits folded and the rows written.
template <class Attend>
inline void walk_splits(const AttentionArgs& a, const AttentionScratch& s, Attend&& attend) {
  const int64_t group = a.group, rows = a.n_positions * group;
  const int32_t last = a.position + a.n_positions - 1, per_split = a.split_keys / static_cast<int32_t>(kKeys);
  for (int32_t split = a.split_begin; split < a.split_end; ++split) {
    const int32_t begin = split * per_split;
    for (int32_t block = begin; block < begin + per_split && block * kKeys <= last; ++block) {
      attend(block, block == begin);
    }
    const int32_t key0 = split * a.split_keys;
    const int64_t row0 = (key0 > a.position ? key0 - a.position : 0) * group;
    for (int64_t row = row0; row < rows; ++row) {
      const float* split_o = s.split_o + row * a.v_cols;
      if (a.out) {
        fold_split(s.total_max + row, s.total_sum + row, s.total_o + row * a.v_cols, s.split_max[row], s.split_sum[row],
                   split_o, a.v_cols, split == 0);
      } else {
        float* partial = a.partial + row * (2 + a.v_cols);
        fold_split(partial, partial + 1, partial + 2, s.split_max[row], s.split_sum[row], split_o, a.v_cols, true);
      }
    }
  }
  if (!a.out) return;
  const int64_t bytes = a.out_store == Store::kBf16 ? 2 : 4;
  for (int64_t row = 0; row < rows; ++row) {
    char* out = static_cast<char*>(a.out) + row / group * a.out_stride * bytes;
    write_row(out, row % group * a.head_dim, s.total_o + row * a.v_cols, s.total_sum[row], a.head_dim, a.out_store);
  }
}

template <class M>
void attention(const AttentionArgs* args) {
  const AttentionArgs& a = *args;
  const AttentionScratch s = cut_scratch(a.scratch, int64_t{a.n_positions} * a.group, a.head_dim, a.v_cols);
  const float scale = score_scale(a.head_dim);
  load_queries<M>(a, s.q);
  walk_splits(a, s, [&](int32_t block, bool first) { attend_block<M>(a, s, block, first, scale); });
}

void combine(const CombineArgs* args) {
  const CombineArgs& a = *args;
  float* total = a.scratch;
  for (int32_t split = 0; split < a.n_splits; ++split) {
    const float* partial = a.partial + split * a.partial_stride;
    fold_split(total, total + 1, total + 2, partial[0], partial[1], partial + 2, a.v_cols, split == 0);
  }
  write_row(a.out, 0, total + 2, total[1], a.head_dim, a.out_store);
}
