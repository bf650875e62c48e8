#pragma once

// Products of row-major bf16 matrices on sm_90a, out = x W^T, as parts of kernels: what the dense layers and the
// experts share.
//
// Tiles of 128 x kN: two consumer warpgroups of 64 x kN outputs (kN / 2 accumulators a thread), so that a tile reads
// 128 + kN rows for 128 kN products per k: 48 bytes a cycle at 256 columns, of the 64 that L2 gives. A producer
// warpgroup keeps the stages of 64 k in flight (four of 48 KB at 256 columns); rows of 128 bytes in the 128-byte
// swizzle are free of bank conflicts for copies and wgmma alike. setmaxnreg gives the producer's registers to the
// consumers.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda::hopper {

constexpr int kM = 128, kK = 64, kThreads = 384;
constexpr int kBarrierBytes = 1024;  // keeps the stages on the 1,024 bytes of the swizzle's pattern

// Registers of a thread after setmaxnreg: 128 * 56 + 256 * 224, the 64,512 that 384 threads begin with.
constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;

// A stage of the ring and the parity of the phase that is waited for.
struct Slot {
  int stage = 0, parity = 0;
};

// What 64 x kN outputs of a consumer are held in: more than 256 columns are two products.
template <int kN>
struct Accumulator {
  static constexpr int kParts = kN > 256 ? 2 : 1, kColumns = kN / kParts;
  WgmmaRegisters<float, kColumns / 2> part[kParts];
  QWEN3_DEVICE float get(int i) const { return part[i / (kColumns / 2)].get(i % (kColumns / 2)); }
};

// A ring of kCount stages of kElements bf16 each, behind the barriers.
template <int kCount, int kElements>
struct Stages {
  static constexpr int kStages = kCount, kStageElements = kElements;
  static constexpr int kSharedBytes = kBarrierBytes + kStages * kStageElements * 2;

  QWEN3_DEVICE static Shared<uint64_t> full(int stage) { return shared_memory<uint64_t>(stage * 8); }
  QWEN3_DEVICE static Shared<uint64_t> empty(int stage) { return shared_memory<uint64_t>(64 + stage * 8); }
  // By one thread; producers: arrivals that fill a stage, besides the bytes of TMA.
  QWEN3_DEVICE static void init(int producers) {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full(s), producers);
      mbarrier_init(empty(s), 8);  // the warps of the consumers
    }
    fence_mbarrier_init();
  }
  QWEN3_DEVICE static Shared<Bf16> memory(int stage) {
    return shared_memory<Bf16>(kBarrierBytes) + stage * kStageElements;
  }
  QWEN3_DEVICE static void next(Slot& slot) {
    if (++slot.stage == kStages) slot.stage = 0, slot.parity ^= 1;
  }
};

// The ring of tiles of 128 x kN: x of a stage, [128, 64], and the weight's [kN, 64] behind it; 168 to 192 KB.
template <int kN>
struct Ring : Stages<(kN > 256   ? 3
                      : kN > 128 ? 4
                                 : 6),
                     (kM + kN) * kK> {
  using Base = Stages<(kN > 256 ? 3 : kN > 128 ? 4 : 6), (kM + kN) * kK>;
  using Base::empty, Base::full, Base::memory, Base::next;
  static constexpr int kBox = Accumulator<kN>::kColumns;  // rows of the weight that a copy moves

  // acc = rows [64 consumer, 64 consumer + 64) of the tile times the weight, over k_tiles stages. meanwhile(): once,
  // under the first products.
  template <class Meanwhile>
  QWEN3_DEVICE static void multiply(Accumulator<kN>& acc, Slot& slot, int consumer, int k_tiles, Meanwhile meanwhile) {
    using Acc = Accumulator<kN>;
    const int lane = thread_index().x % 32;
    int previous = -1;
    for (int k = 0; k < k_tiles; ++k, next(slot)) {
      mbarrier_wait(full(slot.stage), slot.parity);
      const uint32_t a = (memory(slot.stage) + consumer * 64 * kK).address();
      const uint32_t b = (memory(slot.stage) + kM * kK).address();
      wgmma_fence();
      QWEN3_UNROLL
      for (int step = 0; step < kK / 16; ++step) {  // 16 k are 32 bytes along the swizzled row
        QWEN3_UNROLL
        for (int p = 0; p < Acc::kParts; ++p) {
          wgmma<Acc::kColumns>(acc.part[p], matrix_descriptor(a + step * 32, 16, 1024, Swizzle::k128),
                               matrix_descriptor(b + p * Acc::kColumns * kK * 2 + step * 32, 16, 1024, Swizzle::k128),
                               k > 0 || step > 0);
        }
      }
      wgmma_commit();
      if (k == 0) meanwhile();
      wgmma_wait<1>();  // the products of the stage before are over
      if (previous >= 0 && lane == 0) mbarrier_arrive(empty(previous));
      previous = slot.stage;
    }
    wgmma_wait<0>();
    if (lane == 0) mbarrier_arrive(empty(previous));
  }

  // For a consumer that has no rows in this tile: lets its stages pass.
  QWEN3_DEVICE static void skip(Slot& slot, int k_tiles) {
    for (int k = 0; k < k_tiles; ++k, next(slot)) {
      mbarrier_wait(full(slot.stage), slot.parity);
      warp_sync();  // a lane that stayed behind could miss this phase, and the next one looks like the one before
      if (thread_index().x % 32 == 0) mbarrier_arrive(empty(slot.stage));
    }
  }
};

// The first of the two rows, g and g + 8, that a thread holds of a tile: register i = 4 j + 2 h + {0, 1} is row
// g + 8 h, columns 8 j + 2 t + {0, 1}.
QWEN3_DEVICE int held_row() {
  const int thread = thread_index().x;
  return (thread / 128 - 1) * 64 + thread / 32 % 4 * 16 + thread % 32 / 4;
}

// Results go from registers to memory in 16 bytes a lane: eight rows of 64 bytes a store, whole sectors, and half the
// stores of the 4 or 8 bytes that a lane holds together. Through shared memory and TMA it would be the same sectors,
// and a buffer beside 192 KB of stages is a quarter of a tile of f32: its warps would wait for three quarters of the
// tile to leave through the same 64 bytes a cycle.
//
// 32 neighbouring bf16 of a row, of which four lanes hold w[i] (two of the i-th eight each): lane t stores the t-th
// eight, where `inside`. Every lane of the warp calls it.
QWEN3_DEVICE void store_quad(Bf16* to, const uint32_t (&w)[4], bool inside) {
  const int t = thread_index().x % 4;
  const bool high = t & 2, odd = t & 1;
  // Of the pair of eights that is to be in this half of the lanes: what the lower and the upper half held.
  const uint32_t r0 = shuffle_xor(high ? w[0] : w[2], 2), r1 = shuffle_xor(high ? w[1] : w[3], 2);
  const uint32_t low0 = high ? r0 : w[0], low1 = high ? r1 : w[1], high0 = high ? w[2] : r0, high1 = high ? w[3] : r1;
  const uint32_t s0 = shuffle_xor(odd ? low0 : low1, 1), s1 = shuffle_xor(odd ? high0 : high1, 1);
  const Words4 words = odd ? Words4{s0, low1, s1, high1} : Words4{low0, s0, high0, s1};
  if (inside) store(reinterpret_cast<Words4*>(to + t * 8), words);
}

// Of two neighbouring eights of f32, a and b, a lane holds two columns each: even lanes get four of a, odd ones of b.
QWEN3_DEVICE Float4 join_pairs(Float2 a, Float2 b) {
  const bool odd = thread_index().x & 1;
  const float x = shuffle_xor(odd ? a.x : b.x, 1), y = shuffle_xor(odd ? a.y : b.y, 1);
  return odd ? Float4{x, y, b.x, b.y} : Float4{a.x, a.y, x, y};
}

// A thread's two columns of a group of 8, of row g + 8 h, as bf16. gated: the group-th 8 of silu(gate) * up, which come
// as 8 columns of gate and 8 of up in turn.
template <int kN>
QWEN3_DEVICE uint32_t gated_pair(const Accumulator<kN>& acc, int group, int h) {
  const int gate = group * 8 + h * 2, up = gate + 4;
  return pack_bf16(silu(acc.get(gate)) * acc.get(up), silu(acc.get(gate + 1)) * acc.get(up + 1));
}
template <int kN>
QWEN3_DEVICE uint32_t plain_pair(const Accumulator<kN>& acc, int group, int h) {
  return pack_bf16(acc.get(group * 4 + h * 2), acc.get(group * 4 + h * 2 + 1));
}

// Of a matrix [rows, k], the boxes of a stage.
inline TensorMap describe_matrix(const Bf16* base, int64_t rows, int k, int box_rows) {
  TensorShape s;
  s.base = base, s.rank = 2, s.swizzle = Swizzle::k128;
  s.size[0] = static_cast<uint64_t>(k), s.size[1] = static_cast<uint64_t>(rows);
  s.stride[0] = static_cast<uint64_t>(k) * 2;
  s.box[0] = kK, s.box[1] = static_cast<uint32_t>(box_rows);
  return encode_tensor_map(s);
}

}  // namespace qwen3::cuda::hopper
