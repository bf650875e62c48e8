#pragma once

// What the kernels of sampling share: ranks, weights, the scratch of a row. See engine/sampler.h for the rules.
//
// The order of the cuts is one number, the rank: 32 bits of the logit, best first, then 24 of the id. Weights are fixed
// point (2^39 = 1): sums are exact in any order, so that a row may be spread over blocks as suits the chip. Compiled
// without contraction (cuda.cmake): exp_f32 must give the host's bits.

#include "core/math.h"
#include "core/random.h"
#include "cuda/ptx/launch.h"
#include "cuda/sampling.h"

namespace qwen3::cuda {
namespace sampling {

constexpr float kOne = 549755813888.0f;  // 2^39
constexpr float kNegligible = -27.1f;    // 2^-39 = e^-27.03

QWEN3_DEVICE int32_t order_key(float value) {
  const auto bits = static_cast<int32_t>(f32_as_bits(value + 0.0f));
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
QWEN3_DEVICE float key_value(int32_t key) {
  return bits_as_f32(static_cast<uint32_t>(key ^ ((key >> 31) & 0x7fffffff)));
}

constexpr int32_t kInfinityKey = -0x7f800001;  // of -infinity
constexpr int kIdBits = 24;
constexpr uint64_t kNoRank = ~uint64_t{0};  // worse than any
QWEN3_DEVICE uint64_t key_rank(int32_t key, int id) {
  const uint32_t ordered = static_cast<uint32_t>(key) ^ 0x80000000u;
  return static_cast<uint64_t>(~ordered) << kIdBits | static_cast<uint64_t>(id);
}
QWEN3_DEVICE uint64_t rank_of(float logit, int id) {
  return key_rank(order_key(logit), id);
}
QWEN3_DEVICE int32_t rank_key(uint64_t rank) {
  return static_cast<int32_t>(~static_cast<uint32_t>(rank >> kIdBits) ^ 0x80000000u);
}
QWEN3_DEVICE float rank_value(uint64_t rank) {
  return key_value(rank_key(rank));
}
QWEN3_DEVICE int rank_id(uint64_t rank) {
  return static_cast<int>(rank & 0xffffff);
}

QWEN3_DEVICE uint64_t to_mass(float exponent) {
  return exponent < kNegligible ? 0 : static_cast<uint64_t>(exp_f32(exponent) * kOne);
}

QWEN3_DEVICE uint64_t shuffle64(uint64_t value, int lane) {
  const uint32_t low = shuffle(static_cast<uint32_t>(value), lane),
                 high = shuffle(static_cast<uint32_t>(value >> 32), lane);
  return static_cast<uint64_t>(high) << 32 | low;
}
QWEN3_DEVICE uint64_t warp_sum64(uint64_t x) {
  const int lane = thread_index().x % 32;
  QWEN3_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle64(x, lane ^ mask);
  return x;
}
QWEN3_DEVICE int32_t warp_lowest(int32_t x) {
  return static_cast<int32_t>(~warp_maximum(~static_cast<uint32_t>(x) ^ 0x80000000u) ^ 0x80000000u);
}
QWEN3_DEVICE uint64_t warp_inclusive64(uint64_t x) {
  const int lane = thread_index().x % 32;
  QWEN3_UNROLL
  for (int delta = 1; delta < 32; delta *= 2) {
    const uint64_t below = shuffle64(x, lane >= delta ? lane - delta : lane);
    if (lane >= delta) x += below;
  }
  return x;
}

// Four logits from `id` on; -infinity behind the vocabulary. Rows are 16-byte aligned where the vocabulary is.
struct Quad {
  float v[4];
};
QWEN3_DEVICE Quad load_quad(const float* logits, int id, int vocab) {
  const float none = bits_as_f32(0xff800000u);
  Quad q{{none, none, none, none}};
  if (vocab % 4 == 0) {
    if (id < vocab) {
      const Float4 x = load(reinterpret_cast<const Float4*>(logits + id));
      q.v[0] = x.x, q.v[1] = x.y, q.v[2] = x.z, q.v[3] = x.w;
    }
  } else {
    QWEN3_UNROLL
    for (int c = 0; c < 4; ++c) {
      if (id + c < vocab) q.v[c] = load(logits + id + c);
    }
  }
  return q;
}
QWEN3_DEVICE void store_quad(float* logits, int id, int vocab, const Quad& q) {
  if (vocab % 4 == 0) {
    if (id < vocab) store(reinterpret_cast<Float4*>(logits + id), {q.v[0], q.v[1], q.v[2], q.v[3]});
  } else {
    QWEN3_UNROLL
    for (int c = 0; c < 4; ++c) {
      if (id + c < vocab) store(logits + id + c, q.v[c]);
    }
  }
}

// --- scratch of a row ---

constexpr int kPart = 4096, kSlice = 128, kBuckets = 1024;
constexpr int kMostFew = 64;  // top-k up to which sample_kernel draws

struct alignas(16) RowState {
  int32_t arrived;   // blocks of the row; 0 between launches
  int32_t broken;    // warps that met a logit that is no finite number; 0 between launches
  int32_t finished;  // sample_kernel has drawn
  float largest, lowest;
};
// Bytes from the beginning of a row's scratch to: the lowest keys of warps, i32 [parts][8]; candidates u64
// [few][parts], best first; weights and counts of the buckets, u64 and i32 [kBuckets]; weights of the slices, u64
// [slices].
struct ScratchLayout {
  int parts, slices, few;
  int64_t lowest_keys, candidates, bucket_masses, bucket_counts, slice_masses, bytes;
  template <class T>
  QWEN3_DEVICE T* at(unsigned char* scratch, int64_t row, int64_t offset) const {
    return reinterpret_cast<T*>(scratch + row * bytes + offset);
  }
};

QWEN3_HOST_DEVICE inline bool is_few(const SamplingRow& s, const ScratchLayout& layout) {
  return s.temperature == 0 || (s.top_k > 0 && s.top_k <= layout.few);
}
QWEN3_DEVICE bool has_cuts(const SamplingRow& s) {
  return s.top_k > 0 || s.top_p < uint64_t{1} << 32;
}

// Whether this is the last block of the row to arrive; it then sees what the others wrote.
QWEN3_DEVICE bool arrive_last(RowState* state, int blocks, Shared<uint32_t> told) {
  block_sync();
  if (thread_index().x == 0) {
    thread_fence();  // what this block did, the barrier ahead of it included
    told.store(0, atomic_add(&state->arrived, 1) == blocks - 1 ? 1 : 0);
    thread_fence();  // the other blocks' results
  }
  block_sync();
  return told.load(0) == 1;
}

}  // namespace sampling

// sampling_all.cu: draws for the rows that sample_kernel left, those without a small top-k.
void sample_all(Stream stream, const float* logits, int n_rows, int vocab, const SamplingRow* rows, int32_t* ids,
                unsigned char* scratch, const sampling::ScratchLayout& layout);
// The second half of log_probabilities: what top_kernel found, logits so far, becomes log-probabilities.
void sum_logprobs(Stream stream, const float* logits, int n_rows, int vocab, const SamplingRow* rows,
                  const int32_t* ids, RowLogprobs* out, unsigned char* scratch, const sampling::ScratchLayout& layout);

}  // namespace qwen3::cuda
