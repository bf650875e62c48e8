// Attention of many rows per sequence on sm_90a: TMA gathers of cache blocks, wgmma, a producer and two consumers.
//
// The tile is that of attention_prefill.cu, 128 rows of (token, q head of a group; 125 for a group of five), 64 per
// consumer warpgroup. Key
// tiles are 128 keys, two cache blocks, 32 KB each of K and V; two stages of both and of Q are 192 KB. Tiles run from
// the last key to the first, so that only the first one is masked. Within a warpgroup the scores of the next tile are
// computed beside the product with V (FlashAttention-3, J. Shah et al. 2024, section 3.2), and the two warpgroups take
// turns at issuing, so that one's softmax runs under the other's products (section 3.1). A thread holds 64 scores, 64
// outputs, 32 words of weights and 32 of Q.
//
// Blocks are persistent; the host has dealt them their tasks, each a tile of one KV head (share_prefill). The producer
// runs ahead into the next one, whose first scores are issued with the last product of the task before: a block of its
// own per task spent 5 us of its time on beginning and ending. Long prompts run into the H200's power limit, so what
// saves energy saves time: Q is read from registers, not from shared memory again with each tile of keys.

#include "cuda/attention.h"

namespace qwen3::cuda {
namespace {

using namespace attention;

constexpr int kHeadDim = 128, kRows = 128, kTileKeys = 128, kStages = 2, kThreads = 384;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
// Halves of 64 columns, [rows, 64] in the 128-byte swizzle each.
constexpr int kHalf = 128 * 64;  // elements; of Q, K and V alike
constexpr int kBarrierBytes = 1024;
constexpr int kSharedBytes = kBarrierBytes + 3 * kStages * 2 * kHalf * 2;

QWEN3_DEVICE Shared<Bf16> q_memory(int slot) {
  return shared_memory<Bf16>(kBarrierBytes) + slot * 2 * kHalf;
}
QWEN3_DEVICE Shared<Bf16> k_memory(int stage) {
  return q_memory(kStages + stage * 2);
}
QWEN3_DEVICE Shared<Bf16> v_memory(int stage) {
  return k_memory(stage) + 2 * kHalf;
}

// Rows of a tile that hold a token: q heads of a group stay together.
QWEN3_HOST_DEVICE inline int rows_of(const HeadShape& heads) {
  const int group = heads.n_q_heads / heads.n_kv_heads;
  return kRows / group * group;
}

struct Barriers {
  QWEN3_DEVICE Shared<uint64_t> q_full(int s) const { return shared_memory<uint64_t>(s * 8); }
  QWEN3_DEVICE Shared<uint64_t> q_empty(int s) const { return shared_memory<uint64_t>(16 + s * 8); }
  QWEN3_DEVICE Shared<uint64_t> k_full(int s) const { return shared_memory<uint64_t>(32 + s * 8); }
  QWEN3_DEVICE Shared<uint64_t> v_full(int s) const { return shared_memory<uint64_t>(48 + s * 8); }
  QWEN3_DEVICE Shared<uint64_t> k_empty(int s) const { return shared_memory<uint64_t>(64 + s * 8); }
  QWEN3_DEVICE Shared<uint64_t> v_empty(int s) const { return shared_memory<uint64_t>(80 + s * 8); }
};

// What the consumers have to know of a tile; the producer leaves it beside Q.
struct Task {
  int n_tiles;  // of keys; 0: there is no further task
  int n_keys;
  int position, row;  // of the first token: in its sequence, and of q
  int n_tokens, kv_head;

  QWEN3_DEVICE static Shared<Words4> memory(int slot) { return shared_memory<Words4>(128 + slot * 32); }
  QWEN3_DEVICE void leave(int slot) const {
    const auto word = [](int x) { return static_cast<uint32_t>(x); };
    memory(slot).store(0, {word(n_tiles), word(n_keys), word(position), word(row)});
    memory(slot).store(1, {word(n_tokens), word(kv_head), 0, 0});
  }
  QWEN3_DEVICE static Task find(int slot) {
    const Words4 a = memory(slot).load(0), b = memory(slot).load(1);
    return {static_cast<int>(a.x), static_cast<int>(a.y), static_cast<int>(a.z),
            static_cast<int>(a.w), static_cast<int>(b.x), static_cast<int>(b.y)};
  }
};

struct Maps {
  TensorMap q, keys, values;  // q: [n_rows, n_q_heads, 128]; caches: [n_blocks * n_kv_heads * 64, 128]
};

// --- the producer ---

struct Producer {
  const Maps& maps;
  const AttentionWork& work;
  const HeadShape& heads;
  int64_t cache_rows;
  int filled = 0;  // key tiles so far

  // Two blocks of 64 keys, each as two halves of columns. A block beyond the sequence is taken from beyond the cache:
  // zeros.
  QWEN3_DEVICE void load_tile(const TensorMap& map, Shared<Bf16> to, Shared<uint64_t> barrier, int table, int kv_head,
                              int tile, int n_keys) const {
    mbarrier_arrive_expect(barrier, 2 * kHalf * 2);
    for (int b = 0; b < 2; ++b) {
      const int block = tile * 2 + b;
      int64_t row = cache_rows;
      if (block * kKeys < n_keys) {
        row = (static_cast<int64_t>(load(work.block_table + table + block)) * heads.n_kv_heads + kv_head) * kKeys;
      }
      for (int half = 0; half < 2; ++half) {
        tma_load(to + half * kHalf + b * kKeys * 64, map, barrier, half * 64, static_cast<int>(row));
      }
    }
  }

  QWEN3_DEVICE void fill(const AttentionTile& tile, const AttentionSequence& sequence, int kv_head, int slot) {
    const Barriers barriers;
    const int n_tiles = (tile.key_end + kTileKeys - 1) / kTileKeys, row = sequence.row_begin + tile.token_begin;
    Task{n_tiles, tile.key_end, sequence.position_begin + tile.token_begin, row, tile.n_tokens, kv_head}.leave(slot);
    mbarrier_arrive_expect(barriers.q_full(slot), rows_of(heads) * kHeadDim * 2);
    for (int half = 0; half < 2; ++half) {
      tma_load(q_memory(slot) + half * kHalf, maps.q, barriers.q_full(slot), half * 64,
               kv_head * (heads.n_q_heads / heads.n_kv_heads), row);
    }
    for (int i = n_tiles - 1; i >= 0; --i, ++filled) {
      const int stage = filled % kStages, parity = (filled / kStages & 1) ^ 1;
      mbarrier_wait(barriers.k_empty(stage), parity);
      load_tile(maps.keys, k_memory(stage), barriers.k_full(stage), sequence.table_begin, kv_head, i, tile.key_end);
      mbarrier_wait(barriers.v_empty(stage), parity);
      load_tile(maps.values, v_memory(stage), barriers.v_full(stage), sequence.table_begin, kv_head, i, tile.key_end);
    }
  }
};

QWEN3_DEVICE void produce(const Maps& maps, const AttentionWork& work, const HeadShape& heads, int64_t cache_rows) {
  const Barriers barriers;
  Producer producer{maps, work, heads, cache_rows};
  const int end = load(work.tasks + block_index().x + 1);
  int at = load(work.tasks + block_index().x);
  // The next task is on its way while this one is filled.
  int task = load(work.tasks + at);
  AttentionTile tile = load(work.tiles + task / heads.n_kv_heads);
  for (int round = 0;; ++round) {
    const int slot = round % kStages;
    mbarrier_wait(barriers.q_empty(slot), (round / kStages & 1) ^ 1);
    if (at == end) {
      Task{}.leave(slot);
      mbarrier_arrive(barriers.q_full(slot));
      return;
    }
    const AttentionSequence sequence = load(work.sequences + tile.sequence);
    const int next = ++at < end ? load(work.tasks + at) : task;
    const AttentionTile next_tile = load(work.tiles + next / heads.n_kv_heads);
    producer.fill(tile, sequence, task % heads.n_kv_heads, slot);
    tile = next_tile, task = next;
  }
}

// --- one consumer warpgroup ---

struct Consumer {
  WgmmaRegisters<float, 64> s, o;
  WgmmaRegisters<uint32_t, 4> q[8];  // 16 columns each
  WgmmaRegisters<uint32_t, 4> p[8];  // weights of 16 keys each
  float largest[2], sum[2];
  int position[2];
  float scale;
};

// This warpgroup's 64 rows of Q. From shared memory each product with K would read them again, beside as much of K as
// the memory can give while the next tiles arrive.
QWEN3_DEVICE void load_q(Consumer& c, int consumer, int slot) {
  const int thread = thread_index().x % 128, warp = thread / 32, lane = thread % 32;
  const int row = consumer * 64 + warp * 16 + lane % 16;
  QWEN3_UNROLL
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const int chunk = step * 2 + lane / 16;
    uint32_t a[4];
    ldmatrix_x4(a, q_memory(slot) + (chunk / 8 * kHalf + row * 64 + ((chunk ^ row) & 7) * 8));
    QWEN3_UNROLL
    for (int i = 0; i < 4; ++i) c.q[step].set(i, a[i]);
  }
}

// s = q k^T: 128 keys.
QWEN3_DEVICE void issue_scores(Consumer& c, int stage) {
  const uint32_t k = k_memory(stage).address();
  QWEN3_UNROLL
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint32_t offset = static_cast<uint32_t>(step / 4 * kHalf * 2 + step % 4 * 32);
    wgmma<128>(c.s, c.q[step], matrix_descriptor(k + offset, 16, 1024, Swizzle::k128), step > 0);
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

QWEN3_DEVICE void mask_scores(Consumer& c, int key0) {
  const int t = thread_index().x % 4;
  QWEN3_UNROLL
  for (int i = 0; i < 64; ++i) {
    if (key0 + i / 4 * 8 + t * 2 + i % 2 > c.position[i / 2 % 2]) c.s.set(i, bits_as_f32(0xff800000u));
  }
}

// Updates largest and sum, turns scores into weights (in s); returns by how much earlier sums shrink.
QWEN3_DEVICE void soften(Consumer& c, float (&shrink)[2]) {
  const float none = bits_as_f32(0xff800000u);
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    float largest = c.largest[h];
    QWEN3_UNROLL
    for (int j = 0; j < 16; ++j) {
      QWEN3_UNROLL
      for (int i = j * 4 + h * 2; i < j * 4 + h * 2 + 2; ++i) largest = maximum(largest, c.s.get(i));
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
  if (n_keys >= kTileKeys) return;
  const int thread = thread_index().x - 128;
  for (int i = thread + n_keys * 16; i < kTileKeys * 16; i += 256) {
    const int key = i / 16, chunk = i % 16;
    (v_memory(stage) + (chunk / 8 * kHalf + key * 64 + chunk % 8 * 8)).as<Words4>().store(0, {0, 0, 0, 0});
  }
  fence_proxy_async();  // the product reads them
  named_barrier_sync(1, 256);
}

// The warpgroups take turns at issuing: each waits for its own barrier and opens the other's.
QWEN3_DEVICE void take_turn(int consumer) {
  named_barrier_sync(2 + consumer, 256);
}
QWEN3_DEVICE void give_turn(int consumer) {
  named_barrier_arrive(2 + (consumer ^ 1), 256);
}

// Through the warpgroup's own rows of Q's memory, so that 16 bytes a lane are written.
QWEN3_DEVICE void write_rows(Consumer& c, int consumer, int slot, const float (&sums)[2], const HeadShape& heads,
                             Bf16* out) {
  const Task task = Task::find(slot);
  const int thread = thread_index().x % 128, warp = thread / 32, lane = thread % 32;
  const int group = heads.n_q_heads / heads.n_kv_heads;
  const auto at = [&](int row, int chunk) {  // of this warpgroup's 64 rows
    return q_memory(slot) + (chunk / 8 * kHalf + (consumer * 64 + row) * 64 + ((chunk ^ (row & 7)) & 7) * 8);
  };
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    float sum = sums[h];
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
    if (in_tile >= task.n_tokens * group) continue;
    const int64_t r = task.row + in_tile / group;
    Bf16* to = out + (r * heads.n_q_heads + task.kv_head * group + in_tile % group) * kHeadDim + chunk * 8;
    store(reinterpret_cast<Words4*>(to), at(row, chunk).template as<Words4>().load());
  }
  fence_proxy_async();  // the next Q comes by TMA
  // By every lane for what it has read itself: once per task that costs nothing, and nobody has to vouch for others.
  mbarrier_arrive(Barriers().q_empty(slot));
}

// A task's first tile meets the outputs of the last task's last one, whose rows are written then.
QWEN3_DEVICE void consume(const HeadShape& heads, Bf16* out) {
  const Barriers barriers;
  const int consumer = thread_index().x / 128 - 1, warp = thread_index().x / 32 % 4, lane = thread_index().x % 32;
  const int group = heads.n_q_heads / heads.n_kv_heads;
  const int token[2] = {(consumer * 64 + warp * 16 + lane / 4) / group,
                        (consumer * 64 + warp * 16 + lane / 4 + 8) / group};
  Consumer c;
  c.scale = score_scale(kHeadDim);
  int first_position = 0;
  const auto begin = [&](const Task& task) {
    first_position = task.position;
    QWEN3_UNROLL
    for (int h = 0; h < 2; ++h) {
      c.largest[h] = bits_as_f32(0xff800000u), c.sum[h] = 0;
      c.position[h] = task.position + (token[h] < task.n_tokens ? token[h] : task.n_tokens - 1);
    }
  };
  const auto mask = [&](int tile) {
    if (tile * kTileKeys + kTileKeys - 1 > first_position) mask_scores(c, tile * kTileKeys);
  };
  float shrink[2];

  mbarrier_wait(barriers.q_full(0), 0);
  Task task = Task::find(0);
  mbarrier_wait(barriers.k_full(0), 0);
  load_q(c, consumer, 0);
  if (consumer == 1) give_turn(1);  // consumer 0 begins
  take_turn(consumer);
  wgmma_fence();
  issue_scores(c, 0);
  give_turn(consumer);
  begin(task);
  wgmma_wait<0>();
  if (lane == 0) mbarrier_arrive(barriers.k_empty(0));
  mask(task.n_tiles - 1);
  soften(c, shrink);
  pack_weights(c);
  mbarrier_wait(barriers.v_full(0), 0);
  clear_unwritten_values(0, task.n_keys - (task.n_tiles - 1) * kTileKeys);
  int round = 0;
  for (int done = 1;; ++done) {  // tiles
    const int slot = round % kStages;
    for (int tile = task.n_tiles - 2; tile >= 0; --tile, ++done) {
      const int stage = done % kStages, before = (done - 1) % kStages;
      mbarrier_wait(barriers.k_full(stage), done / kStages & 1);
      mbarrier_wait(barriers.v_full(before), (done - 1) / kStages & 1);
      take_turn(consumer);
      wgmma_fence();
      issue_scores(c, stage);
      issue_outputs(c, before, tile < task.n_tiles - 2);
      give_turn(consumer);
      wgmma_wait<1>();  // the scores; the product with V goes on
      if (lane == 0) mbarrier_arrive(barriers.k_empty(stage));
      mask(tile);
      soften(c, shrink);
      wgmma_wait<0>();
      if (lane == 0) mbarrier_arrive(barriers.v_empty(before));
      pack_weights(c);
      rescale(c, shrink);
    }
    const int stage = done % kStages, before = (done - 1) % kStages, next = (round + 1) % kStages;
    const bool accumulate = task.n_tiles > 1;
    mbarrier_wait(barriers.q_full(next), (round + 1) / kStages & 1);
    task = Task::find(next);
    mbarrier_wait(barriers.v_full(before), (done - 1) / kStages & 1);
    if (task.n_tiles == 0) {
      take_turn(consumer);
      wgmma_fence();
      issue_outputs(c, before, accumulate);
      give_turn(consumer);
      wgmma_wait<0>();
      write_rows(c, consumer, slot, c.sum, heads, out);
      break;
    }
    mbarrier_wait(barriers.k_full(stage), done / kStages & 1);
    load_q(c, consumer, next);
    take_turn(consumer);
    wgmma_fence();
    issue_scores(c, stage);
    issue_outputs(c, before, accumulate);
    give_turn(consumer);
    const float sums[2] = {c.sum[0], c.sum[1]};
    begin(task);
    wgmma_wait<1>();
    if (lane == 0) mbarrier_arrive(barriers.k_empty(stage));
    mask(task.n_tiles - 1);
    soften(c, shrink);
    wgmma_wait<0>();
    if (lane == 0) mbarrier_arrive(barriers.v_empty(before));
    write_rows(c, consumer, slot, sums, heads, out);
    pack_weights(c);
    mbarrier_wait(barriers.v_full(stage), done / kStages & 1);
    clear_unwritten_values(stage, task.n_keys - (task.n_tiles - 1) * kTileKeys);
    ++round;
  }
  if (consumer == 0) take_turn(0);  // the turn that the other gave last
}

// Rows that no Q is copied to (of groups that do not divide 128) begin as zeros; their results go nowhere.
QWEN3_DEVICE void clear_spare_rows(const HeadShape& heads) {
  for (int i = rows_of(heads) * 16 + thread_index().x; i < kRows * 16; i += kThreads) {
    for (int slot = 0; slot < kStages; ++slot) {
      (q_memory(slot) + (i % 16 / 8 * kHalf + i / 16 * 64 + i % 8 * 8)).as<Words4>().store(0, {0, 0, 0, 0});
    }
  }
}

QWEN3_KERNEL(kThreads)
prefill_hopper_kernel(QWEN3_GRID_CONSTANT const Maps maps, AttentionWork work, HeadShape heads, int64_t cache_rows,
                      Bf16* out) {
  const Barriers barriers;
  if (thread_index().x == 0) {
    tma_prefetch(maps.q), tma_prefetch(maps.keys), tma_prefetch(maps.values);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(barriers.q_full(s), 1), mbarrier_init(barriers.q_empty(s), 256);
      mbarrier_init(barriers.k_full(s), 1), mbarrier_init(barriers.v_full(s), 1);
      mbarrier_init(barriers.k_empty(s), 8), mbarrier_init(barriers.v_empty(s), 8);
    }
    fence_mbarrier_init();
  }
  clear_spare_rows(heads);
  block_sync();
  grid_dependency_wait();
  if (thread_index().x < 128) {
    set_max_registers_down<kProducerRegisters>();
    if (thread_index().x == 0) produce(maps, work, heads, cache_rows);
  } else {
    set_max_registers_up<kConsumerRegisters>();
    consume(heads, out);
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
  return heads.head_dim == kHeadDim && heads.n_q_heads / heads.n_kv_heads <= 16;
}

void attention_prefill_hopper(Stream stream, const Bf16* q, const KvLayer& cache, int64_t n_blocks,
                              const AttentionWork& work, const HeadShape& heads, int n_rows, int multiprocessors,
                              Bf16* out) {
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
  const int tasks = work.n_tiles * heads.n_kv_heads;
  const LaunchShape grid{
      {tasks < multiprocessors ? tasks : multiprocessors, 1, 1}, {kThreads, 1, 1}, kSharedBytes, true};
  launch(stream, "attention_prefill_hopper", prefill_hopper_kernel, grid, maps, work, heads, cache_rows, out);
}

}  // namespace qwen3::cuda
