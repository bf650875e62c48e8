// The same attention for one row per sequence, its keys split over several blocks.
//
// The q heads of a KV head are the columns of one product: K and V are read once per KV head. A block is one split of
// one KV head, two warps that take its cache blocks in turn from the last one back, each with its own K and V buffers
// (64 KB together at head_dim 128: three blocks a multiprocessor of 228 KB, 192 KB on their way) and no barrier between
// them until the end. K of the next block is fetched during the softmax, V during the next scores; the first of both
// before the kernel ahead has ended, but for the rows that this step writes. Positions alone decide which warp sums
// which keys, so a row's bits do not depend on the other sequences.
//
// Few rows of few keys wait for trips to the L2 that follow each other, not for bytes. Behind the kernel ahead there
// are left: q together with the new rows; K and V of a warp's further blocks; the partial result, the count of those
// that arrived, the others' results. What leads to the keys (tile, then block table) lies ahead of it.
//
// In a step of rows that decode alone, QK-Norm, RoPE and the append happen here: a block normalises and rotates the q
// heads of its KV head, and K of the step's rows among its keys, straight from the projection; whose own key it is
// appends it. As a part of the projection it was a count of those blocks that shared a head, a fence, and a trip to the
// L2 for the last of them; as a kernel, a boundary.
//
// The splits of a row, at most 64 (schedule.h), are joined in the same launch by the block that arrives last, in the
// order of the keys, whoever that is. K and V pass the L2 without displacing the results that wait there.

#include "cuda/arrival.h"
#include "cuda/decode_columns.h"
#include "cuda/qk_norm_rope.h"

namespace qwen3::cuda {
namespace {

using namespace attention;

constexpr int kThreads = kWarps * 32;

template <int kHeadDim>
constexpr int kWarpElements = 2 * kKeys* kHeadDim;

// The two warps' results: [kWarps, 16 heads, kHeadDim + 4] f32, then [kWarps, 16] largest and sum. Two heads are 8
// banks apart.
template <int kHeadDim>
constexpr int kJoinStride = kHeadDim + 4;

// --- one split ---

struct DecodeOutputs {
  float* partials;
  int32_t* arrived;  // [n_partials, n_kv_heads]
  Bf16* out;
};

// Rows [begin, end) of a block of K and of V.
template <int kHeadDim>
QWEN3_DEVICE void copy_rows(Shared<Bf16> keys, Shared<Bf16> values, const KvLayer& block, int begin, int end,
                            int lane) {
  constexpr int kChunks = kHeadDim / 8;
  QWEN3_ROLLED
  for (int i = begin * kChunks + lane; i < end * kChunks; i += 32) {
    const int to = at<kHeadDim>(i / kChunks, i % kChunks);
    cp_async16_once(keys + to, block.keys + i * 8, 16);
    cp_async16_once(values + to, block.values + i * 8, 16);
  }
}

// --- rows of this step, from the projection ---

// N neighbouring values of a row of a tile, from column N lane on.
template <int kHeadDim, int N>
QWEN3_DEVICE void put_values(Shared<Bf16> tile, int row, const float (&v)[N]) {
  const int column = thread_index().x % 32 * N;
  store_bf16<N>(tile + (at<kHeadDim>(row, column / 8) + column % 8), v);
}

// By one warp: K and V of rows [begin, end) of the block of 64 keys from key0 on, all of them new, into the tiles;
// those of the tile's own row into the cache as well. block: of the cache. kAtOnce: rows (drafts) asked for together;
// two tiles of heads leave registers for one.
template <int kHeadDim, int kAtOnce>
QWEN3_DEVICE void put_new_rows(const QkNormRope& raw, const DecodeTile& tile, int kv_head, Shared<Bf16> keys,
                               Shared<Bf16> values, const KvLayer& block, int key0, int begin, int end) {
  constexpr int N = kHeadDim / 32;
  const int lane = thread_index().x % 32, k_head = raw.heads.n_q_heads + kv_head;
  float weight[N];
  load_values<N>(raw.k_norm + lane * N, weight);
  QWEN3_ROLLED
  for (int first = begin; first < end; first += kAtOnce) {
    float k[kAtOnce][N], v[kAtOnce][N], c[kAtOnce][N], s[kAtOnce][N];
    const int first_row = tile.new_row + (key0 + first - tile.new_begin);
    QWEN3_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      if (first + u >= end) break;
      load_head<N>(raw, first_row + u, k_head, k[u]);
      load_head<N>(raw, first_row + u, k_head + raw.heads.n_kv_heads, v[u]);
      load_angles<N>(raw, first_row + u, c[u], s[u]);
    }
    QWEN3_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      if (first + u >= end) break;
      norm_and_rotate<N>(k[u], weight, c[u], s[u], raw.eps);
      put_values<kHeadDim, N>(keys, first + u, k[u]);
      put_values<kHeadDim, N>(values, first + u, v[u]);
      if (first_row + u != tile.row) continue;
      store_bf16<N>(block.keys + (first + u) * kHeadDim + lane * N, k[u]);
      store_bf16<N>(block.values + (first + u) * kHeadDim + lane * N, v[u]);
    }
  }
}

// The q heads of a KV head, a warp every other one: asked for, then normalised and put where load_q finds them.
template <int kHeadDim, int kTiles>
struct RawQueries {
  static constexpr int N = kHeadDim / 32, kMost = kTiles * 8 / kWarps;
  float v[kMost][N], weight[N], c[N], s[N];
  QWEN3_DEVICE void load(const QkNormRope& raw, int row, int first_head, int group) {
    load_angles<N>(raw, row, c, s);
    load_values<N>(raw.q_norm + thread_index().x % 32 * N, weight);
    QWEN3_UNROLL
    for (int i = 0; i < kMost; ++i) {
      const int head = thread_index().x / 32 + i * kWarps;
      if (head < group) load_head<N>(raw, row, first_head + head, v[i]);
    }
  }
  QWEN3_DEVICE void put(const QkNormRope& raw, Shared<Bf16> to, int group) {
    QWEN3_UNROLL
    for (int i = 0; i < kMost; ++i) {
      const int head = thread_index().x / 32 + i * kWarps;
      if (head >= group) break;
      norm_and_rotate<N>(v[i], weight, c, s, raw.eps);
      store_bf16<N>(to + (head * kQueryStride<kHeadDim> + thread_index().x % 32 * N), v[i]);
    }
  }
};

// What a launch works on. kRaw: raw; else q, whose rows' K and V are in the cache already.
struct DecodeInputs {
  const Bf16* q;
  QkNormRope raw;
  KvLayer cache;
  const int32_t* block_table;
  HeadShape heads;
};

template <int kHeadDim, int kTiles, bool kRaw>
QWEN3_DEVICE void decode_tile(const DecodeTile& tile, int kv_head, const DecodeInputs& in,
                              const DecodeOutputs& outputs) {
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32;
  const HeadShape& heads = in.heads;
  const int group = heads.n_q_heads / heads.n_kv_heads;
  const int64_t row = tile.row;
  const int32_t* const table = in.block_table + tile.table_begin;
  const auto keys = shared_memory<Bf16>(0) + warp * kWarpElements<kHeadDim>, values = keys + kKeys * kHeadDim;
  // This warp's cache blocks, from the last one back: that is where the step's rows are.
  const int first = tile.key_begin / kKeys + warp, end = (tile.key_end + kKeys - 1) / kKeys;
  const int last = first + (end - 1 - first) / kWarps * kWarps;
  const auto keys_in = [&](int block) {
    const int left = tile.key_end - block * kKeys;
    return left < kKeys ? left : kKeys;
  };
  const auto in_cache = [&](int block) {
    const int64_t from = block_offset(table, block, heads, kv_head);
    return KvLayer{in.cache.keys + from, in.cache.values + from};
  };

  // What no kernel of this step writes need not wait for the last one: all rows of the last block but those of the
  // step, which come behind the wait with q.
  int n_old = 0, n_keys = 0;
  KvLayer newest = in.cache;
  if (first < end) {
    newest = in_cache(last), n_keys = keys_in(last);
    const int old = tile.new_begin - last * kKeys;
    n_old = old < 0 ? 0 : old < n_keys ? old : n_keys;
    copy_keys<kHeadDim, 32, true>(keys, newest.keys, n_old, lane, n_keys - n_old);
    cp_async_commit();
    copy_keys<kHeadDim, 32, true>(values, newest.values, n_old, lane, n_keys - n_old);
    cp_async_commit();
  }
  grid_dependency_wait();
  Columns<kHeadDim, kTiles> columns;
  const auto q = shared_memory<Bf16>(kWarps * kWarpElements<kHeadDim> * 2);
  if constexpr (kRaw) {
    RawQueries<kHeadDim, kTiles> queries;
    queries.load(in.raw, tile.row, kv_head * group, group);
    put_new_rows<kHeadDim, kTiles == 1 ? 4 : 1>(in.raw, tile, kv_head, keys, values, newest, last * kKeys, n_old,
                                                n_keys);
    queries.put(in.raw, q, group);
    block_sync();
  } else {
    if (n_old < n_keys) {
      copy_rows<kHeadDim>(keys, values, newest, n_old, n_keys, lane);
      cp_async_commit();
    }
    // Straight from memory: at most 16 rows once per split are not worth a stage.
    const Bf16* const from = in.q + (row * heads.n_q_heads + kv_head * group) * kHeadDim;
    columns.load_q(group, [&](int head, int column) {
      return load(reinterpret_cast<const uint32_t*>(from + head * kHeadDim + column));
    });
    if (n_old < n_keys) cp_async_wait<0>();  // one group more than the loop waits for
  }
  // Blocks ahead of the last one are full.
  const auto copy = [&](Shared<Bf16> to, const Bf16* pool, int block) {
    if (block >= first) {
      copy_keys<kHeadDim, 32, true>(to, pool + block_offset(table, block, heads, kv_head), kKeys, lane);
    }
    cp_async_commit();
  };
  columns.clear();
  const float scale = score_scale(kHeadDim);
  for (int block = first < end ? last : first - 1; block >= first; block -= kWarps) {
    cp_async_wait<1>();
    warp_sync();           // K is there for all lanes
    if constexpr (kRaw) {  // each time: two tiles of q beside the rest are too many registers
      columns.load_q(group, [&](int head, int column) {
        return (q + (head * kQueryStride<kHeadDim> + column)).template as<uint32_t>().load();
      });
    }
    float s[kTiles][4][4];
    columns.scores(keys, s);
    warp_sync();
    copy(keys, in.cache.keys, block - kWarps);
    if (block * kKeys + kKeys > tile.key_end) columns.mask(s, block * kKeys, tile.key_end);
    columns.soften(s, scale);
    cp_async_wait<1>();
    warp_sync();
    columns.accumulate(s, values);
    warp_sync();
    copy(values, in.cache.values, block - kWarps);
  }
  cp_async_wait<0>();

  constexpr int kStride = kJoinStride<kHeadDim>;
  const auto joined = shared_memory<float>(0), stats = joined + kWarps * 16 * kStride;
  block_sync();
  columns.leave(joined + warp * 16 * kStride, kStride, stats + warp * 16, stats + kWarps * 16 + warp * 16, scale);
  block_sync();
  const bool alone = tile.partial < 0;
  Bf16* const out = outputs.out + (row * heads.n_q_heads + kv_head * group) * kHeadDim;
  float* const partial = outputs.partials + (static_cast<int64_t>(tile.partial) * heads.n_q_heads + kv_head * group) *
                                                partial_stride(kHeadDim);
  for (int i = thread; i < group * (kHeadDim / 2); i += kThreads) {
    const int r = i / (kHeadDim / 2), column = i % (kHeadDim / 2) * 2;
    const float m0 = stats.load(r), m1 = stats.load(16 + r);
    const float largest = maximum(m0, m1), w0 = exp2_approx(m0 - largest), w1 = exp2_approx(m1 - largest);
    const Float2 a = (joined + (r * kStride + column)).template as<Float2>().load();
    const Float2 b = (joined + ((16 + r) * kStride + column)).template as<Float2>().load();
    const float sum = stats.load(kWarps * 16 + r) * w0 + stats.load(kWarps * 16 + 16 + r) * w1;
    const float x = a.x * w0 + b.x * w1, y = a.y * w0 + b.y * w1;
    if (alone) {
      store(reinterpret_cast<uint32_t*>(out + r * kHeadDim + column), pack_bf16(x / sum, y / sum));
      continue;
    }
    float* const p = partial + r * partial_stride(kHeadDim);
    store(reinterpret_cast<Float2*>(p + column), {x, y});
    if (column == 0) store(reinterpret_cast<Float2*>(p + kHeadDim), {largest, sum});
  }
  if (alone) return;
  const int64_t stride = static_cast<int64_t>(heads.n_q_heads) * partial_stride(kHeadDim);
  const int64_t first_partial = tile.partial - tile.split;
  if (!last_to_arrive(outputs.arrived + first_partial * heads.n_kv_heads + kv_head, tile.n_splits,
                      shared_memory<int32_t>(0), [] { block_sync(); }))
    return;
  join_row<kHeadDim, kTiles == 1 ? 16 : 8>({partial - stride * tile.split, out, group, stride}, tile.n_splits);
}

template <int kHeadDim, int kTiles, bool kRaw>
QWEN3_KERNEL_OF(kThreads, 3)
decode_kernel(QWEN3_GRID_CONSTANT const DecodeInputs in, DecodeWork work, DecodeOutputs to) {
  // All heads of a tile, then the next tile: blocks start in this order, and those without a tile should be the last.
  const int kv_head = block_index().x % in.heads.n_kv_heads;
  int i = block_index().x / in.heads.n_kv_heads;
  // One trip: the tile is read before it is known whether there is one.
  DecodeTile tile = load(work.tiles + i);
  const int n_tiles = work.count ? load(work.count) : work.n_tiles;
  grid_dependency_launch();
  while (i < n_tiles) {
    decode_tile<kHeadDim, kTiles, kRaw>(tile, kv_head, in, to);
    i += work.n_tiles;
    if (i >= n_tiles) break;
    tile = load(work.tiles + i);
    block_sync();  // the last tile's sums have been read
  }
}

template <int kHeadDim, bool kRaw>
void run_decode(Stream stream, const DecodeInputs& in, const DecodeWork& work, const DecodeOutputs& to) {
  const bool few = in.heads.n_q_heads / in.heads.n_kv_heads <= 8;
  const int queries = kRaw ? (few ? 8 : 16) * kQueryStride<kHeadDim> : 0;
  const int copies = (kWarps * kWarpElements<kHeadDim> + queries) * 2;
  constexpr int kJoined = kWarps * 16 * (kJoinStride<kHeadDim> + 2) * 4;
  const LaunchShape shape{
      {work.n_tiles * in.heads.n_kv_heads, 1, 1}, {kThreads, 1, 1}, copies > kJoined ? copies : kJoined, true};
  launch(stream, "attention_decode", few ? decode_kernel<kHeadDim, 1, kRaw> : decode_kernel<kHeadDim, 2, kRaw>, shape,
         in, work, to);
}

template <bool kRaw>
void run_decode(Stream stream, const DecodeInputs& in, const DecodeWork& work, const DecodeOutputs& to) {
  if (work.n_tiles == 0) return;
  if (in.heads.head_dim == 128) run_decode<128, kRaw>(stream, in, work, to);
  if (in.heads.head_dim == 64) run_decode<64, kRaw>(stream, in, work, to);
  if (in.heads.head_dim == 32) run_decode<32, kRaw>(stream, in, work, to);
}

}  // namespace

int partial_elements(const HeadShape& heads) {
  return heads.n_q_heads * (heads.head_dim + 8);
}

void attention_decode(Stream stream, const Bf16* q, const KvLayer& cache, const DecodeWork& work,
                      const HeadShape& heads, float* partials, int32_t* arrived, Bf16* out) {
  run_decode<false>(stream, {q, {}, cache, work.block_table, heads}, work, {partials, arrived, out});
}

void attention_decode(Stream stream, const QkNormRope& raw, const DecodeWork& work, float* partials, int32_t* arrived,
                      Bf16* out) {
  run_decode<true>(stream, {nullptr, raw, raw.cache, work.block_table, raw.heads}, work, {partials, arrived, out});
}

}  // namespace qwen3::cuda
