// out = softmax(q k^T / sqrt(head_dim), causal) v over the paged cache, many rows per sequence.
//
// A block owns 128 rows: 128 / group tokens times the q heads of one KV head, so that K and V are read once for the
// whole group and the causal edge wastes little. Eight warps of 16 rows; scores, weights and output stay in registers.
// K and V tiles of 64 keys (one cache block, contiguous) come by cp.async into two stages, 64 KB at head_dim 128: the
// next tile is on its way during the products. Registers (Q, output and scores are 128 of 234) allow one block of eight
// warps a multiprocessor. Q passes through the second stage before it is needed for keys.

#include "cuda/attention.h"

namespace qwen3::cuda {
namespace {

using namespace attention;

constexpr int kThreads = 256, kRows = 128;

template <int kHeadDim>
constexpr int kStage = 2 * kKeys* kHeadDim;  // elements: K, then V

template <int kHeadDim>
QWEN3_KERNEL(kThreads)
prefill_kernel(const Bf16* q, KvLayer cache, AttentionWork work, HeadShape heads, Bf16* out) {
  constexpr int kChunks = kHeadDim / 8;
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32;
  const int kv_head = block_index().y, group = heads.n_q_heads / heads.n_kv_heads;
  const AttentionTile tile = load(work.tiles + block_index().x);
  const AttentionSequence sequence = load(work.sequences + tile.sequence);
  const auto stages = shared_memory<Bf16>(0);
  const int used_rows = tile.n_tokens * group, n_blocks = (tile.key_end + kKeys - 1) / kKeys;
  const auto element = [&](int row, int chunk) {  // of q and out
    const int64_t r = sequence.row_begin + tile.token_begin + row / group;
    return (r * heads.n_q_heads + kv_head * group + row % group) * kHeadDim + chunk * 8;
  };
  const auto copy_block = [&](int i) {
    const int64_t from = block_offset(work.block_table + sequence.table_begin, i, heads, kv_head);
    const auto stage = stages + i % 2 * kStage<kHeadDim>;
    const int n_keys = tile.key_end - i * kKeys;
    copy_keys<kHeadDim, kThreads>(stage, cache.keys + from, n_keys, thread);
    copy_keys<kHeadDim, kThreads>(stage + kKeys * kHeadDim, cache.values + from, n_keys, thread);
  };

  grid_dependency_wait();
  const auto staged = stages + kStage<kHeadDim>;  // Q on its way in, the output on its way out: [128, head_dim]
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = row < used_rows;
    cp_async16(staged + at<kHeadDim>(row, chunk), q + (valid ? element(row, chunk) : 0), valid ? 16 : 0);
  }
  copy_block(0);
  cp_async_commit();
  cp_async_wait<0>();
  block_sync();
  Rows<kHeadDim> rows;
  rows.clear();
  QWEN3_UNROLL
  for (int step = 0; step < kHeadDim / 16; ++step) {
    ldmatrix_x4(rows.q[step], staged + at<kHeadDim>(warp * 16 + lane % 16, step * 2 + lane / 16));
  }
  // Rows that are only padding see what the last token sees.
  int position[2];
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int token = (warp * 16 + lane / 4 + h * 8) / group;
    position[h] = sequence.position_begin + tile.token_begin + (token < tile.n_tokens ? token : tile.n_tokens - 1);
  }
  const int first_position = sequence.position_begin + tile.token_begin;
  const float scale = score_scale(kHeadDim);
  for (int i = 0; i < n_blocks; ++i) {
    cp_async_wait<0>();
    block_sync();  // tile i is there, and nobody needs the other stage any more
    if (i + 1 < n_blocks) copy_block(i + 1);
    cp_async_commit();
    const auto stage = stages + i % 2 * kStage<kHeadDim>;
    float s[8][4];
    scores<kHeadDim>(rows, stage, s);
    if (i * kKeys + kKeys - 1 > first_position) mask(s, i * kKeys, position);
    soften<kHeadDim>(rows, s, scale);
    accumulate<kHeadDim>(rows, s, stage + kKeys * kHeadDim);
  }
  grid_dependency_launch();

  join_sums<kHeadDim>(rows);
  block_sync();
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const float inverse = 1.0f / rows.sum[h];
    const int row = warp * 16 + lane / 4 + h * 8;
    QWEN3_UNROLL
    for (int j = 0; j < kHeadDim / 8; ++j) {
      (staged + (at<kHeadDim>(row, j) + lane % 4 * 2))
          .template as<uint32_t>()
          .store(0, pack_bf16(rows.o[j][h * 2] * inverse, rows.o[j][h * 2 + 1] * inverse));
    }
  }
  warp_sync();
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = warp * 16 + i / kChunks, chunk = i % kChunks;
    if (row >= used_rows) continue;
    store(reinterpret_cast<Words4*>(out + element(row, chunk)),
          (staged + at<kHeadDim>(row, chunk)).template as<Words4>().load());
  }
}

}  // namespace

int prefill_tile_tokens(const HeadShape& heads) {
  return kRows / (heads.n_q_heads / heads.n_kv_heads);
}

void attention_prefill(Stream stream, const Bf16* q, const KvLayer& cache, const AttentionWork& work,
                       const HeadShape& heads, Bf16* out) {
  if (work.n_tiles == 0) return;
  const auto run = [&](auto kernel, int stage_elements) {
    const LaunchShape shape{{work.n_tiles, heads.n_kv_heads, 1}, {kThreads, 1, 1}, stage_elements * 2 * 2, true};
    launch(stream, "attention_prefill", kernel, shape, q, cache, work, heads, out);
  };
  if (heads.head_dim == 128) run(prefill_kernel<128>, kStage<128>);
  if (heads.head_dim == 64) run(prefill_kernel<64>, kStage<64>);
  if (heads.head_dim == 32) run(prefill_kernel<32>, kStage<32>);
}

}  // namespace qwen3::cuda
