// Attention of many rows per sequence on sm_90a: TMA gathers of cache blocks, wgmma, a producer and two consumers.
//
// The tile is that of attention_prefill.cu, 128 rows of (token, q head of a group), 64 per consumer warpgroup. Key
// tiles are 128 keys, two cache blocks, 32 KB each of K and V; two stages of both and Q are 160 KB. Tiles run from the
// last key to the first, so that only the first one is masked. Within a warpgroup the scores of the next tile are
// computed beside the product with V (FlashAttention-3, J. Shah et al. 2024, section 3.2), and the two warpgroups take
// turns at issuing, so that one's softmax runs under the other's products (section 3.1). A thread holds 64 scores, 64
// outputs and 32 words of weights.

#include "cuda/attention.h"

namespace qwen3::cuda {
namespace {

using namespace attention;

constexpr int kHeadDim = 128, kRows = 128, kTileKeys = 128, kStages = 2, kThreads = 384;
// Halves of 64 columns, [rows, 64] in the 128-byte swizzle each.
constexpr int kHalf = 128 * 64;  // elements; of Q, K and V alike
constexpr int kBarrierBytes = 1024;

QWEN3_DEVICE Shared<Bf16> q_memory() {
  return shared_memory<Bf16>(kBarrierBytes);
}
QWEN3_DEVICE Shared<Bf16> k_memory(int stage) {
  return q_memory() + (1 + stage * 2) * 2 * kHalf;
}
QWEN3_DEVICE Shared<Bf16> v_memory(int stage) {
  return k_memory(stage) + 2 * kHalf;
}

struct Barriers {
  QWEN3_DEVICE Shared<uint64_t> q() const { return shared_memory<uint64_t>(0); }
  QWEN3_DEVICE Shared<uint64_t> k_full(int s) const { return shared_memory<uint64_t>(16 + s * 8); }
  QWEN3_DEVICE Shared<uint64_t> v_full(int s) const { return shared_memory<uint64_t>(32 + s * 8); }
  QWEN3_DEVICE Shared<uint64_t> k_empty(int s) const { return shared_memory<uint64_t>(48 + s * 8); }
  QWEN3_DEVICE Shared<uint64_t> v_empty(int s) const { return shared_memory<uint64_t>(64 + s * 8); }
};

struct Task {
  AttentionTile tile;
  AttentionSequence sequence;
  int kv_head, group, n_tiles;
};

struct Maps {
  TensorMap q, keys, values;  // q: [n_rows, n_q_heads, 128]; caches: [n_blocks * n_kv_heads * 64, 128]
};

// Two blocks of 64 keys, each as two halves of columns. A block beyond the sequence is taken from beyond the cache:
// zeros.
QWEN3_DEVICE void load_tile(const TensorMap& map, Shared<Bf16> to, Shared<uint64_t> barrier, const AttentionWork& work,
                            const HeadShape& heads, const Task& task, int tile, int64_t cache_rows) {
  mbarrier_arrive_expect(barrier, 2 * kHalf * 2);
  for (int b = 0; b < 2; ++b) {
    const int block = tile * 2 + b;
    const bool exists = block * kKeys < task.tile.key_end;
    const int64_t row = exists ? block_offset(work, task.sequence, block, heads, task.kv_head) / kHeadDim : cache_rows;
    for (int half = 0; half < 2; ++half) {
      tma_load(to + half * kHalf + b * kKeys * 64, map, barrier, half * 64, static_cast<int>(row));
    }
  }
}

QWEN3_DEVICE void produce(const Maps& maps, const AttentionWork& work, const HeadShape& heads, const Task& task,
                          int64_t cache_rows) {
  const Barriers barriers;
  mbarrier_arrive_expect(barriers.q(), kRows * kHeadDim * 2);
  for (int half = 0; half < 2; ++half) {
    tma_load(q_memory() + half * kHalf, maps.q, barriers.q(), half * 64, task.kv_head * task.group,
             task.sequence.row_begin + task.tile.token_begin);
  }
  for (int i = 0; i < task.n_tiles; ++i) {
    const int stage = i % kStages, parity = (i / kStages & 1) ^ 1, tile = task.n_tiles - 1 - i;
    mbarrier_wait(barriers.k_empty(stage), parity);
    load_tile(maps.keys, k_memory(stage), barriers.k_full(stage), work, heads, task, tile, cache_rows);
    mbarrier_wait(barriers.v_empty(stage), parity);
    load_tile(maps.values, v_memory(stage), barriers.v_full(stage), work, heads, task, tile, cache_rows);
  }
}

// One consumer warpgroup.
struct Consumer {
  WgmmaRegisters<float, 64> s, o;
  WgmmaRegisters<uint32_t, 4> p[8];  // weights of 16 keys each
  float largest[2], sum[2];
  int position[2];
  float scale;
};

// s = q k^T: q rows of this warpgroup, 128 keys.
QWEN3_DEVICE void issue_scores(Consumer& c, int consumer, int stage) {
  const uint32_t q = (q_memory() + consumer * 64 * 64).address(), k = k_memory(stage).address();
  QWEN3_UNROLL
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint32_t offset = static_cast<uint32_t>(step / 4 * kHalf * 2 + step % 4 * 32);
    wgmma<128>(c.s, matrix_descriptor(q + offset, 16, 1024, Swizzle::k128),
               matrix_descriptor(k + offset, 16, 1024, Swizzle::k128), step > 0);
  }
  wgmma_commit();
}

// o += p v. V is stored with the columns contiguous: 64 of them per half (leading offset), 8 keys per 1,024 bytes.
QWEN3_DEVICE void issue_outputs(Consumer& c, int stage, bool accumulate) {
  const uint32_t v = v_memory(stage).address();
  QWEN3_UNROLL
  for (int step = 0; step < kTileKeys / 16; ++step) {
    wgmma<128, true>(c.o, c.p[step],
                     matrix_descriptor(v + static_cast<uint32_t>(step) * 2048, kHalf * 2, 1024, Swizzle::k128),
                     accumulate || step > 0);
  }
  wgmma_commit();
}

// Masks, updates largest and sum, turns scores into weights (in s); returns by how much earlier sums shrink.
QWEN3_DEVICE void soften(Consumer& c, int key0, bool masked, float (&shrink)[2]) {
  const int t = thread_index().x % 4;
  const float none = bits_as_f32(0xff800000u);
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    float largest = c.largest[h];
    QWEN3_UNROLL
    for (int j = 0; j < 16; ++j) {
      QWEN3_UNROLL
      for (int i = j * 4 + h * 2; i < j * 4 + h * 2 + 2; ++i) {
        if (masked && key0 + j * 8 + t * 2 + i % 2 > c.position[h]) c.s.set(i, none);
        largest = maximum(largest, c.s.get(i));
      }
    }
    largest = maximum(largest, shuffle_xor(largest, 1));
    largest = maximum(largest, shuffle_xor(largest, 2));
    const float base = largest == none ? 0.0f : largest * c.scale;
    shrink[h] = exp2_approx(c.largest[h] * c.scale - base);
    c.largest[h] = largest;
    float sum = 0;
    QWEN3_UNROLL
    for (int j = 0; j < 16; ++j) {
      QWEN3_UNROLL
      for (int i = j * 4 + h * 2; i < j * 4 + h * 2 + 2; ++i) {
        const float weight = exp2_approx(fma(c.s.get(i), c.scale, -base));
        c.s.set(i, weight);
        sum += weight;
      }
    }
    c.sum[h] = c.sum[h] * shrink[h] + sum;
  }
}

// The accumulators of 16 keys are, as they stand, the A fragment of one product.
QWEN3_DEVICE void pack_weights(Consumer& c) {
  QWEN3_UNROLL
  for (int step = 0; step < 8; ++step) {
    QWEN3_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int i = (step * 2 + r / 2) * 4 + r % 2 * 2;
      c.p[step].set(r, pack_bf16(c.s.get(i), c.s.get(i + 1)));
    }
  }
}

QWEN3_DEVICE void rescale(Consumer& c, const float (&shrink)[2]) {
  QWEN3_UNROLL
  for (int i = 0; i < 64; ++i) c.o.set(i, c.o.get(i) * shrink[i / 2 % 2]);
}

// Slots behind the last key may hold anything, NaN too, and 0 * NaN is NaN: their values become zero, by both
// consumers.
QWEN3_DEVICE void clear_unwritten_values(int stage, int n_keys) {
  const int thread = thread_index().x - 128;
  for (int i = thread + n_keys * 16; i < kTileKeys * 16; i += 256) {
    const int key = i / 16, chunk = i % 16;
    (v_memory(stage) + (chunk / 8 * kHalf + key * 64 + chunk % 8 * 8)).as<Words4>().store(0, {0, 0, 0, 0});
  }
  fence_proxy_async();
  named_barrier_sync(1, 256);
}

// The warpgroups take turns at issuing: each waits for its own barrier and opens the other's.
QWEN3_DEVICE void take_turn(int consumer) {
  named_barrier_sync(2 + consumer, 256);
}
QWEN3_DEVICE void give_turn(int consumer) {
  named_barrier_arrive(2 + (consumer ^ 1), 256);
}

QWEN3_DEVICE void consume_tiles(Consumer& c, int consumer, const Task& task) {
  const Barriers barriers;
  const int lane = thread_index().x % 32, last = task.n_tiles - 1;
  const int first_position = task.sequence.position_begin + task.tile.token_begin;
  const auto masked = [&](int tile) { return tile * kTileKeys + kTileKeys - 1 > first_position; };
  float shrink[2];
  mbarrier_wait(barriers.q(), 0);
  mbarrier_wait(barriers.k_full(0), 0);
  if (consumer == 1) give_turn(1);  // consumer 0 begins
  take_turn(consumer);
  wgmma_fence();
  issue_scores(c, consumer, 0);
  give_turn(consumer);
  wgmma_wait<0>();
  if (lane == 0) mbarrier_arrive(barriers.k_empty(0));
  soften(c, last * kTileKeys, masked(last), shrink);
  pack_weights(c);
  mbarrier_wait(barriers.v_full(0), 0);
  clear_unwritten_values(0, task.tile.key_end - last * kTileKeys);
  for (int i = 1; i < task.n_tiles; ++i) {
    const int stage = i % kStages, before = (i - 1) % kStages, tile = last - i;
    mbarrier_wait(barriers.k_full(stage), i / kStages & 1);
    if (i > 1) mbarrier_wait(barriers.v_full(before), (i - 1) / kStages & 1);
    take_turn(consumer);
    wgmma_fence();
    issue_scores(c, consumer, stage);
    issue_outputs(c, before, i > 1);
    give_turn(consumer);
    wgmma_wait<1>();  // the scores; the product with V goes on
    if (lane == 0) mbarrier_arrive(barriers.k_empty(stage));
    soften(c, tile * kTileKeys, masked(tile), shrink);
    wgmma_wait<0>();
    if (lane == 0) mbarrier_arrive(barriers.v_empty(before));
    pack_weights(c);
    rescale(c, shrink);
  }
  const int stage = (task.n_tiles - 1) % kStages;
  if (task.n_tiles > 1) mbarrier_wait(barriers.v_full(stage), (task.n_tiles - 1) / kStages & 1);
  wgmma_fence();
  issue_outputs(c, stage, task.n_tiles > 1);
  wgmma_wait<0>();
  take_turn(consumer);  // the turn that the other gave last
  if (consumer == 0) give_turn(0);
}

// Through the warpgroup's own rows of Q's memory, so that 16 bytes a lane are written.
QWEN3_DEVICE void write_rows(Consumer& c, int consumer, const Task& task, const HeadShape& heads, Bf16* out) {
  const int thread = thread_index().x % 128, warp = thread / 32, lane = thread % 32;
  const auto at = [&](int row, int chunk) {  // of this warpgroup's 64 rows
    return q_memory() + (chunk / 8 * kHalf + (consumer * 64 + row) * 64 + ((chunk ^ (row & 7)) & 7) * 8);
  };
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    float sum = c.sum[h];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const float inverse = 1.0f / sum;
    QWEN3_UNROLL
    for (int j = 0; j < 16; ++j) {
      const int i = j * 4 + h * 2;
      (at(warp * 16 + lane / 4 + h * 8, j) + lane % 4 * 2)
          .template as<uint32_t>()
          .store(0, pack_bf16(c.o.get(i) * inverse, c.o.get(i + 1) * inverse));
    }
  }
  warp_sync();
  for (int i = lane; i < 16 * 16; i += 32) {
    const int row = warp * 16 + i / 16, chunk = i % 16, in_tile = consumer * 64 + row;
    if (in_tile >= task.tile.n_tokens * task.group) continue;
    const int64_t r = task.sequence.row_begin + task.tile.token_begin + in_tile / task.group;
    Bf16* to = out + (r * heads.n_q_heads + task.kv_head * task.group + in_tile % task.group) * kHeadDim + chunk * 8;
    store(reinterpret_cast<Words4*>(to), at(row, chunk).template as<Words4>().load());
  }
}

QWEN3_KERNEL(kThreads)
prefill_hopper_kernel(QWEN3_GRID_CONSTANT const Maps maps, AttentionWork work, HeadShape heads, int64_t cache_rows,
                      Bf16* out) {
  const Barriers barriers;
  if (thread_index().x == 0) {
    mbarrier_init(barriers.q(), 1);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(barriers.k_full(s), 1), mbarrier_init(barriers.v_full(s), 1);
      mbarrier_init(barriers.k_empty(s), 8), mbarrier_init(barriers.v_empty(s), 8);
    }
    fence_mbarrier_init();
  }
  block_sync();
  grid_dependency_wait();
  Task task;
  task.tile = load(work.tiles + block_index().x);
  task.sequence = load(work.sequences + task.tile.sequence);
  task.kv_head = block_index().y, task.group = heads.n_q_heads / heads.n_kv_heads;
  task.n_tiles = (task.tile.key_end + kTileKeys - 1) / kTileKeys;
  if (thread_index().x < 128) {
    set_max_registers_down<24>();
    if (thread_index().x == 0) produce(maps, work, heads, task, cache_rows);
  } else {
    set_max_registers_up<240>();
    const int consumer = thread_index().x / 128 - 1, warp = thread_index().x / 32 % 4, lane = thread_index().x % 32;
    Consumer c;
    c.scale = score_scale(kHeadDim);
    QWEN3_UNROLL
    for (int h = 0; h < 2; ++h) {
      c.largest[h] = bits_as_f32(0xff800000u), c.sum[h] = 0;
      const int token = (consumer * 64 + warp * 16 + lane / 4 + h * 8) / task.group;
      c.position[h] = task.sequence.position_begin + task.tile.token_begin +
                      (token < task.tile.n_tokens ? token : task.tile.n_tokens - 1);
    }
    consume_tiles(c, consumer, task);
    write_rows(c, consumer, task, heads, out);
  }
  grid_dependency_launch();
}

TensorMap describe_cache(const Bf16* pool, int64_t rows) {
  TensorShape s;
  s.base = pool, s.rank = 2, s.swizzle = Swizzle::k128;
  s.size[0] = kHeadDim, s.size[1] = static_cast<uint64_t>(rows), s.stride[0] = kHeadDim * 2;
  s.box[0] = 64, s.box[1] = kKeys;
  return encode_tensor_map(s);
}

}  // namespace

bool prefill_on_hopper(const HeadShape& heads) {
  const int group = heads.n_q_heads / heads.n_kv_heads;
  return heads.head_dim == kHeadDim && kRows % group == 0;
}

void attention_prefill_hopper(Stream stream, const Bf16* q, const KvLayer& cache, int64_t n_blocks,
                              const AttentionWork& work, const HeadShape& heads, int n_rows, Bf16* out) {
  if (work.n_tiles == 0) return;
  const int group = heads.n_q_heads / heads.n_kv_heads;
  TensorShape s;
  s.base = q, s.rank = 3, s.swizzle = Swizzle::k128;
  s.size[0] = kHeadDim, s.size[1] = static_cast<uint64_t>(heads.n_q_heads), s.size[2] = static_cast<uint64_t>(n_rows);
  s.stride[0] = kHeadDim * 2, s.stride[1] = static_cast<uint64_t>(heads.n_q_heads) * kHeadDim * 2;
  s.box[0] = 64, s.box[1] = static_cast<uint32_t>(group), s.box[2] = static_cast<uint32_t>(kRows / group);
  const int64_t cache_rows = n_blocks * heads.n_kv_heads * kKeys;
  const Maps maps{encode_tensor_map(s), describe_cache(cache.keys, cache_rows),
                  describe_cache(cache.values, cache_rows)};
  const LaunchShape grid{
      {work.n_tiles, heads.n_kv_heads, 1}, {kThreads, 1, 1}, kBarrierBytes + (1 + 2 * kStages) * 2 * kHalf * 2, true};
  launch(stream, "attention_prefill_hopper", prefill_hopper_kernel, grid, maps, work, heads, cache_rows, out);
}

}  // namespace qwen3::cuda
