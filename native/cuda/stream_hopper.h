#pragma once

// out = x W^T for few rows at memory speed on sm_90a, as parts of kernels: the dense layers (linear_stream_hopper.cu)
// and the experts (moe_stream_hopper.cu).
//
// What counts is bytes on their way: 4.3 TB/s times a microsecond are 33 KB a multiprocessor, all the time. So one warp
// does nothing but ask for weights, by TMA into a ring of stages of 128 rows x 64 k (16 KB), as many as shared memory
// has. The weight is the A of wgmma and the rows of x the B, 8 to 64 of them: every weight byte is read once and
// multiplied in one go whatever the number of rows, and no register holds it. Two warps copy the rows' 64 k of a stage
// beside it, by cp.async into the swizzle, so that rows may be gathered. Two warpgroups multiply, 64 weight rows each.

#include "cuda/arrival.h"
#include "cuda/gemm.h"

namespace qwen3::cuda::stream_hopper {

constexpr int kM = 128, kK = 64;
constexpr int kConsumers = 256, kRowCopiers = 64;
constexpr int kThreads = kConsumers + 32 + kRowCopiers;
constexpr int kConsumerWarps = kConsumers / 32;
constexpr int kMostStages = 16;
constexpr int kHeaderBytes = 1024;  // barriers; keeps the stages on the 1,024 bytes of the swizzle's pattern
constexpr int kConsumerBarrier = 1;
// Shared memory of a block, in bytes: a multiprocessor has 228 KB, of which the driver takes one for each block. The
// second leaves room for a block of the attention of up to 8 q heads per KV head: 67 KB.
constexpr int kHalfShared = 113 * 1024, kMostOfShared = 159 * 1024, kWholeShared = 227 * 1024;
static_assert(kThreads == 352);

// Where a thread belongs: consumers first, so that they are the threads of norm.h.
QWEN3_DEVICE bool is_consumer() {
  return thread_index().x < kConsumers;
}
QWEN3_DEVICE bool is_weight_thread() {
  return thread_index().x == kConsumers;
}
QWEN3_DEVICE bool is_row_copier() {
  return thread_index().x >= kConsumers + 32;
}
QWEN3_DEVICE void consumer_sync() {
  named_barrier_sync(kConsumerBarrier, kConsumers);
}

// A stage of the ring and the parity of the phase that is waited for.
struct Slot {
  int stage = 0, parity = 0;
  QWEN3_DEVICE void next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// Stages of a thread's row copies in flight, and the fewest that a ring may have.
constexpr int lag_of(int rows) {
  return rows <= 32 ? 5 : 8;
}

// kN: rows of x in a stage; 0: they are elsewhere.
template <int kN>
struct Ring {
  static constexpr int kStageBytes = (kM + kN) * kK * 2;
  static constexpr int kLag = lag_of(kN);
  int stages;

  QWEN3_DEVICE Shared<uint64_t> full(int stage) const { return shared_memory<uint64_t>(stage * 8); }
  QWEN3_DEVICE Shared<uint64_t> empty(int stage) const { return shared_memory<uint64_t>((kMostStages + stage) * 8); }
  QWEN3_DEVICE Shared<Bf16> weight(int stage) const {
    return shared_memory<Bf16>(kHeaderBytes) + stage * (kStageBytes / 2);
  }
  QWEN3_DEVICE Shared<Bf16> rows(int stage) const { return weight(stage) + kM * kK; }
  QWEN3_DEVICE int end() const { return kHeaderBytes + stages * kStageBytes; }

  QWEN3_DEVICE void init() const {  // by one thread
    for (int s = 0; s < stages; ++s) {
      mbarrier_init(full(s), kN > 0 ? 1 + kRowCopiers / 32 : 1);
      mbarrier_init(empty(s), kConsumerWarps);
    }
    fence_mbarrier_init();
  }
  // The next stage of weights: 128 rows from n0 on, 64 k from k0 on. By the weight thread.
  QWEN3_DEVICE void fetch_weight(Slot& slot, const TensorMap& map, int k0, int n0) const {
    mbarrier_wait(empty(slot.stage), slot.parity ^ 1);
    mbarrier_arrive_expect(full(slot.stage), kM * kK * 2);
    tma_load(weight(slot.stage), map, full(slot.stage), k0, n0);
    slot.next(stages);
  }
};

// The warps that copy rows: thread t takes chunk t % 8 of rows t / 8 + 8 i.
template <int kN>
class RowCopier {
 public:
  QWEN3_DEVICE explicit RowCopier(const Ring<kN>& ring) : ring_(ring) {}
  QWEN3_DEVICE void start(const Bf16* x, const TileRows& rows, int k) {
    const int row0 = (thread_index().x - kConsumers - 32) / 8;
    any_ = x, k_ = k;
    QWEN3_UNROLL
    for (int i = 0; i < kN / 8; ++i) {
      const int row = row0 + i * 8;
      from_[i] = row < rows.count ? x + rows.in_row(row) * k : nullptr;
    }
  }
  // The next stage's rows, 64 k from k0 on.
  QWEN3_DEVICE void copy(int k0) {
    const int row0 = (thread_index().x - kConsumers - 32) / 8, chunk = thread_index().x % 8, at = k0 + chunk * 8;
    mbarrier_wait(ring_.empty(slot_.stage), slot_.parity ^ 1);
    const auto to = ring_.rows(slot_.stage) + (row0 * kK + (chunk ^ row0) * 8);
    QWEN3_UNROLL
    for (int i = 0; i < kN / 8; ++i) {
      const bool valid = from_[i] && at < k_;
      cp_async16(to + i * 8 * kK, valid ? from_[i] + at : any_, valid ? 16 : 0);
    }
    cp_async_commit();
    slot_.next(ring_.stages);
    if (++pending_ < Ring<kN>::kLag) return;
    cp_async_wait<Ring<kN>::kLag - 1>();
    announce();
  }
  QWEN3_DEVICE void finish() {
    cp_async_wait<0>();
    while (pending_ > 0) announce();
  }

 private:
  QWEN3_DEVICE void announce() {
    fence_proxy_async();  // wgmma reads what cp.async wrote
    warp_sync();
    if (thread_index().x % 32 == 0) mbarrier_arrive(ring_.full(arrived_.stage));
    arrived_.next(ring_.stages), --pending_;
  }

  const Ring<kN>& ring_;
  const Bf16* any_ = nullptr;
  const Bf16* from_[kN / 8];
  int k_ = 0, pending_ = 0;
  Slot slot_, arrived_;  // the stage that is copied next, and the one that is announced next
};

// A consumer's part of 128 weight rows times kN rows of x: register i = 4 j + 2 h + c is weight row g + 8 h of the 16
// of its warp, row 8 j + 2 t + c of x.
template <int kN>
using Accumulator = WgmmaRegisters<float, kN / 2>;

// acc = the next `steps` stages. rows_of(step, stage): where the rows of x are.
template <int kN, class AnyRing, class RowsOf>
QWEN3_DEVICE void multiply_stages(Accumulator<kN>& acc, const AnyRing& ring, Slot& slot, int steps, RowsOf rows_of) {
  const int warpgroup = thread_index().x / 128;
  for (int step = 0; step < steps; ++step) {
    mbarrier_wait(ring.full(slot.stage), slot.parity);
    const uint32_t a = (ring.weight(slot.stage) + warpgroup * 64 * kK).address();
    const uint32_t b = rows_of(step, slot.stage).address();
    wgmma_fence();
    QWEN3_UNROLL
    for (int i = 0; i < kK / 16; ++i) {  // 16 k are 32 bytes along the swizzled row
      wgmma<kN>(acc, matrix_descriptor(a + i * 32, 16, 1024, Swizzle::k128),
                matrix_descriptor(b + i * 32, 16, 1024, Swizzle::k128), step > 0 || i > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();  // the products take a third of what the next stage takes to come: the ring gets its place at once
    if (thread_index().x % 32 == 0) mbarrier_arrive(ring.empty(slot.stage));
    slot.next(ring.stages);
  }
}

// Two lanes, one weight row apart (v0 and v1: of rows 2 t and 2 t + 1 of x), exchange so that each holds two columns of
// one row: the even lane of row 2 t.
QWEN3_DEVICE Float2 exchange(float v0, float v1) {
  const bool odd = thread_index().x / 4 & 1;
  const float other = shuffle_xor(odd ? v0 : v1, 4);
  return odd ? Float2{other, v1} : Float2{v0, other};
}

// Whether this block is the last of n whose consumers come here (arrival.h).
QWEN3_DEVICE bool last_to_arrive(int32_t* counter, int n) {
  return cuda::last_to_arrive(counter, n, shared_memory<int32_t>(kMostStages * 16), [] { consumer_sync(); });
}

// Writes a tile whose first weight row is n0. Every consumer calls it.
template <int kN>
QWEN3_DEVICE void write_tile(const Accumulator<kN>& acc, const TileRows& rows, const Target& to, int n0) {
  const int thread = thread_index().x, g = thread % 32 / 4, odd = g & 1, first = n0 + thread / 32 * 16;
  QWEN3_UNROLL
  for (int j = 0; j < kN / 8; ++j) {
    const int row = j * 8 + thread % 4 * 2 + odd;
    const bool inside = row < rows.count;
    const int64_t out_row = inside ? rows.out_row(row) : 0;
    if (to.output == Output::kSiluMul) {
      const float v0 = silu(acc.get(j * 4)) * acc.get(j * 4 + 2), v1 = silu(acc.get(j * 4 + 1)) * acc.get(j * 4 + 3);
      const Float2 v = exchange(v0, v1);
      if (!inside || first >= to.n) continue;
      auto* p = static_cast<Bf16*>(to.out) + out_row * (to.n / 2) + first / 2 + (g - odd);
      store(reinterpret_cast<uint32_t*>(p), pack_bf16(v.x, v.y));
      continue;
    }
    QWEN3_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Float2 v = exchange(acc.get(j * 4 + h * 2), acc.get(j * 4 + h * 2 + 1));
      const int column = first + h * 8 + (g - odd);
      if (!inside || column >= to.n) continue;
      auto* p = reinterpret_cast<Float2*>(static_cast<float*>(to.out) + out_row * to.n + column);
      if (to.output == Output::kAddF32) {
        reduce_add(p, v);  // nobody waits for what was there
      } else {
        store(p, v);
      }
    }
  }
}

// Of a weight [n, k], the boxes of a stage.
inline TensorMap describe_weight(const Bf16* weight, int n, int k) {
  TensorShape s;
  s.base = weight, s.swizzle = Swizzle::k128;
  s.size[0] = static_cast<uint64_t>(k), s.size[1] = static_cast<uint64_t>(n);
  s.stride[0] = static_cast<uint64_t>(k) * 2;
  s.box[0] = kK, s.box[1] = kM;
  return encode_tensor_map(s);
}

// How many stages fit into so many bytes of shared memory with the header and what else the kernel has.
inline int stages_of(int bytes, int stage_bytes, int beside) {
  const int stages = (bytes - kHeaderBytes - beside) / stage_bytes;
  return stages < kMostStages ? stages : kMostStages;
}

}  // namespace qwen3::cuda::stream_hopper
