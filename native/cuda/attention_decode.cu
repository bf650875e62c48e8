// The same attention for one row per sequence, keys split at multiples of 512.
//
// The q heads of a KV head are the rows of one 16-row tile: K and V are read once per KV head, and the products cost
// nothing beside the reads. A block is one split of one KV head, two warps that take its cache blocks in turn, each
// with its own K and V buffers (64 KB together at head_dim 128: three blocks a multiprocessor of 228 KB, 192 KB on
// their way) and no barrier between them until the end. K of the next block is fetched during the softmax, V during the
// next scores. Positions alone decide which warp sums which keys, so a row's bits do not depend on the other sequences.

#include "cuda/attention.h"

namespace qwen3::cuda {
namespace {

using namespace attention;

constexpr int kWarps = 2, kThreads = kWarps * 32;

template <int kHeadDim>
constexpr int kWarpElements = 2 * kKeys* kHeadDim;

// The two warps' results: [kWarps, 16 rows, kHeadDim + 8] f32, then [kWarps, 16] largest and sum. Rows are 8 banks
// apart.
template <int kHeadDim>
constexpr int kJoinStride = kHeadDim + 8;

// Q fragments straight from memory: 16 rows once per split are not worth a stage.
template <int kHeadDim>
QWEN3_DEVICE void load_q(Rows<kHeadDim>& rows, const Bf16* q, int group) {
  const int g = thread_index().x % 32 / 4, t = thread_index().x % 4;
  QWEN3_UNROLL
  for (int step = 0; step < kHeadDim / 16; ++step) {
    QWEN3_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int row = g + r % 2 * 8, column = step * 16 + t * 2 + r / 2 * 8;
      rows.q[step][r] = row < group ? load(reinterpret_cast<const uint32_t*>(q + row * kHeadDim + column)) : 0u;
    }
  }
}

template <int kHeadDim>
QWEN3_DEVICE void decode_tile(const AttentionTile& tile, const Bf16* q, const KvLayer& cache, const AttentionWork& work,
                              const HeadShape& heads, float* partials, Bf16* out) {
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32;
  const int kv_head = block_index().y, group = heads.n_q_heads / heads.n_kv_heads;
  const AttentionSequence sequence = load(work.sequences + tile.sequence);
  const int64_t row = sequence.row_begin + tile.token_begin;
  const int position = sequence.position_begin + tile.token_begin;
  const auto keys = shared_memory<Bf16>(0) + warp * kWarpElements<kHeadDim>, values = keys + kKeys * kHeadDim;
  const int first = tile.key_begin / kKeys + warp, end = (tile.key_end + kKeys - 1) / kKeys;
  const auto copy = [&](Shared<Bf16> to, const Bf16* pool, int block) {
    if (block < end) {
      const int64_t from = block_offset(work, sequence, block, heads, kv_head);
      copy_keys<kHeadDim, 32>(to, pool + from, tile.key_end - block * kKeys, lane);
    }
    cp_async_commit();
  };

  copy(keys, cache.keys, first);
  copy(values, cache.values, first);
  Rows<kHeadDim> rows;
  rows.clear();
  load_q<kHeadDim>(rows, q + (row * heads.n_q_heads + kv_head * group) * kHeadDim, group);
  const float scale = score_scale(kHeadDim);
  const int positions[2] = {position, position};
  for (int block = first; block < end; block += kWarps) {
    cp_async_wait<1>();
    warp_sync();  // K is there for all lanes
    float s[8][4];
    scores<kHeadDim>(rows, keys, s);
    warp_sync();
    copy(keys, cache.keys, block + kWarps);
    if (block * kKeys + kKeys - 1 > position) mask(s, block * kKeys, positions);
    soften<kHeadDim>(rows, s, scale);
    cp_async_wait<1>();
    warp_sync();
    accumulate<kHeadDim>(rows, s, values);
    warp_sync();
    copy(values, cache.values, block + kWarps);
  }
  cp_async_wait<0>();
  join_sums<kHeadDim>(rows);

  constexpr int kStride = kJoinStride<kHeadDim>;
  const auto joined = shared_memory<float>(0), stats = joined + kWarps * 16 * kStride;
  block_sync();
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int r = warp * 16 + lane / 4 + h * 8;
    QWEN3_UNROLL
    for (int j = 0; j < kHeadDim / 8; ++j) {
      (joined + (r * kStride + j * 8 + lane % 4 * 2))
          .template as<Float2>()
          .store(0, {rows.o[j][h * 2], rows.o[j][h * 2 + 1]});
    }
    if (lane % 4 == 0) {
      stats.store(r, rows.largest[h] * scale);
      stats.store(kWarps * 16 + r, rows.sum[h]);
    }
  }
  block_sync();
  for (int i = thread; i < group * (kHeadDim / 2); i += kThreads) {
    const int r = i / (kHeadDim / 2), column = i % (kHeadDim / 2) * 2;
    const float m0 = stats.load(r), m1 = stats.load(16 + r);
    const float largest = maximum(m0, m1), w0 = exp2_approx(m0 - largest), w1 = exp2_approx(m1 - largest);
    const Float2 a = (joined + (r * kStride + column)).template as<Float2>().load();
    const Float2 b = (joined + ((16 + r) * kStride + column)).template as<Float2>().load();
    const float sum = stats.load(kWarps * 16 + r) * w0 + stats.load(kWarps * 16 + 16 + r) * w1;
    const float x = a.x * w0 + b.x * w1, y = a.y * w0 + b.y * w1;
    const int head = kv_head * group + r;
    if (tile.partial < 0) {
      store(reinterpret_cast<uint32_t*>(out + (row * heads.n_q_heads + head) * kHeadDim + column),
            pack_bf16(x / sum, y / sum));
      continue;
    }
    float* to = partials + (static_cast<int64_t>(tile.partial) * heads.n_q_heads + head) * partial_stride(kHeadDim);
    store(reinterpret_cast<Float2*>(to + column), {x, y});
    if (column == 0) store(reinterpret_cast<Float2*>(to + kHeadDim), {largest, sum});
  }
}

template <int kHeadDim>
QWEN3_KERNEL(kThreads)
decode_kernel(const Bf16* q, KvLayer cache, AttentionWork work, HeadShape heads, float* partials, Bf16* out) {
  const int n_tiles = work.count ? load(work.count) : work.n_tiles;
  grid_dependency_wait();
  for (int i = block_index().x; i < n_tiles; i += work.n_tiles) {
    if (i >= work.n_tiles) block_sync();  // the last tile's sums have been read
    decode_tile<kHeadDim>(load(work.tiles + i), q, cache, work, heads, partials, out);
  }
  grid_dependency_launch();
}

// o = sum_i 2^(m_i - m) o_i / sum_i 2^(m_i - m) l_i, splits ascending. One warp per q head.
template <int kHeadDim>
QWEN3_KERNEL(128)
combine_kernel(const float* partials, const CombineRow* rows, HeadShape heads, Bf16* out) {
  constexpr int N = kHeadDim / 32;
  const CombineRow row = load(rows + block_index().x);
  const int head = block_index().y * 4 + thread_index().x / 32, lane = thread_index().x % 32;
  if (head >= heads.n_q_heads || row.n_partials == 0) return;
  grid_dependency_wait();
  float o[N] = {}, largest = bits_as_f32(0xff800000u), sum = 0;
  for (int i = 0; i < row.n_partials; ++i) {
    const float* from =
        partials + (static_cast<int64_t>(row.partial_begin + i) * heads.n_q_heads + head) * partial_stride(kHeadDim);
    const Float2 stats = load(reinterpret_cast<const Float2*>(from + kHeadDim));
    const float next = maximum(largest, stats.x), old = exp2_approx(largest - next),
                scale = exp2_approx(stats.x - next);
    sum = sum * old + stats.y * scale;
    QWEN3_UNROLL
    for (int j = 0; j < N; ++j) o[j] = o[j] * old + load(from + j * 32 + lane) * scale;
    largest = next;
  }
  Bf16* to = out + (static_cast<int64_t>(row.row) * heads.n_q_heads + head) * kHeadDim;
  QWEN3_UNROLL
  for (int j = 0; j < N; ++j) store(to + j * 32 + lane, static_cast<Bf16>(pack_bf16(o[j] / sum, 0.0f)));
}

}  // namespace

int partial_elements(const HeadShape& heads) {
  return heads.n_q_heads * (heads.head_dim + 8);
}

void attention_decode(Stream stream, const Bf16* q, const KvLayer& cache, const AttentionWork& work,
                      const HeadShape& heads, float* partials, Bf16* out) {
  if (work.n_tiles == 0) return;
  const auto run = [&](auto kernel, int copies, int joined) {
    const LaunchShape shape{{work.n_tiles, heads.n_kv_heads, 1}, {kThreads, 1, 1}, copies > joined ? copies : joined};
    launch(stream, "attention_decode", kernel, shape, q, cache, work, heads, partials, out);
  };
  const auto bytes = [](int stride) { return kWarps * 16 * (stride + 2) * 4; };
  if (heads.head_dim == 128) run(decode_kernel<128>, kWarps * kWarpElements<128> * 2, bytes(kJoinStride<128>));
  if (heads.head_dim == 64) run(decode_kernel<64>, kWarps * kWarpElements<64> * 2, bytes(kJoinStride<64>));
  if (heads.head_dim == 32) run(decode_kernel<32>, kWarps * kWarpElements<32> * 2, bytes(kJoinStride<32>));
}

void attention_combine(Stream stream, const float* partials, const CombineRow* rows, int n_rows, const HeadShape& heads,
                       Bf16* out) {
  if (n_rows == 0) return;
  const LaunchShape shape{{n_rows, (heads.n_q_heads + 3) / 4, 1}, {128, 1, 1}, 0};
  const auto run = [&](auto kernel) { launch(stream, "attention_combine", kernel, shape, partials, rows, heads, out); };
  if (heads.head_dim == 128) run(combine_kernel<128>);
  if (heads.head_dim == 64) run(combine_kernel<64>);
  if (heads.head_dim == 32) run(combine_kernel<32>);
}

}  // namespace qwen3::cuda
