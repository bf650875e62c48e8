// Penalties, temperature, top-k, top-p, min-p and the draw, without a sort. See engine/sampler.h for the rules. Weights
// are fixed point (2^39 = 1): sums are exact in any order, so that a row may be spread over blocks as suits the chip.
// Compiled without contraction (cuda.cmake): exp_f32 must give the host's bits.
//
// The order of the cuts is one number, the rank: 32 bits of the logit, best first, then 24 of the id.
//
// sample_kernel: a block per 4,096 logits, which it holds in registers. It checks and adjusts them and keeps the best k
// of its part: the best ranks of 64 groups of 64 logits (or 128 of 32) are compared with each other, the k-th of them
// is reached by k logits at least, and the few that reach it are ranked among themselves. The last block of a row does
// the same with what the parts kept. For k up to 64 and for greedy rows that ends it: no other logit has a weight to be
// computed.
//
// draw_kernel, rows without such a bound: largest logit and range are known now. Weights are summed by slices of 128
// ids; where there are cuts, counts and weights also by 1,024 buckets of the exponent. The last block finds the bucket
// in which a cut falls, then the rank by radix selection among the logits of that bucket, 10 bits a pass; then the
// slice and the token in which the random point falls. The launch is there for every step, because a graph does not
// know the rows' parameters: its blocks end at once when they have nothing to do.

#include "cuda/sampling.h"

#include <algorithm>

#include "core/math.h"
#include "core/random.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

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

QWEN3_DEVICE bool is_few(const SamplingRow& s, const ScratchLayout& layout) {
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

// --- the best of a part, and of a row ---

constexpr int kThreads = 256, kWarps = kThreads / 32, kEach = kPart / kThreads, kQuads = kEach / 4;
constexpr int kMostListed = 2048;
// Shared memory: the list, earlier the part's logits; best ranks of the groups; the best of all; words told to all.
constexpr int kList = 0, kGroupRanks = kMostListed * 8, kBest = kGroupRanks + kThreads / 2 * 8,
              kBestMasses = kBest + kMostFew * 8, kThreshold = kBestMasses + kMostFew * 8, kCount = kThreshold + 8,
              kFlag = kCount + 4, kTold = kFlag + 4, kSampleBytes = kTold + 8;
static_assert(kMostListed * 8 >= kPart * 4);

// How many threads' ranks make a group: with many groups few reach the k-th of them, with few they are soon compared.
QWEN3_HOST_DEVICE constexpr int group_threads(int k) {
  return k <= 32 ? 4 : 2;
}
static_assert(32 * group_threads(32) * kEach <= kMostListed &&
              kMostFew * group_threads(kMostFew) * kEach <= kMostListed);

// Calls emit(place, rank) for the k best of all ranks; returns how many there are. best: of this thread;
// each(least, visit) visits those of its ranks that are not worse than `least`.
template <class Each, class Emit>
QWEN3_DEVICE int keep_best(int k, uint64_t best, const Each& each, const Emit& emit) {
  const auto list = shared_memory<uint64_t>(kList), groups = shared_memory<uint64_t>(kGroupRanks),
             threshold = shared_memory<uint64_t>(kThreshold);
  const auto count = shared_memory<uint32_t>(kCount);
  const int thread = thread_index().x, size = group_threads(k), within = thread % size, n_groups = kThreads / size;
  uint64_t group = best;
  for (int lanes = 1; lanes < size; lanes *= 2) {
    const uint64_t other = shuffle64(group, thread % 32 ^ lanes);
    group = other < group ? other : group;
  }
  if (thread == 0) threshold.store(0, kNoRank - 1), count.store(0, 0);
  if (within == 0) groups.store(thread / size, group);
  block_sync();
  int better = 0;  // groups, of which each thread of one compares its share
  QWEN3_UNROLL_8
  for (int i = within; i < n_groups; i += size) better += groups.load(i) < group ? 1 : 0;
  for (int lanes = 1; lanes < size; lanes *= 2) better += shuffle_xor(better, lanes);
  if (within == 0 && group != kNoRank && better == k - 1) threshold.store(0, group);
  block_sync();
  each(threshold.load(), [&](uint64_t rank) { list.store(static_cast<int>(shared_atomic_add(count, 1)), rank); });
  block_sync();
  const int n = static_cast<int>(count.load());
  for (int i = thread; i < n; i += kThreads) {
    const uint64_t rank = list.load(i);
    int at = 0;
    QWEN3_UNROLL_8
    for (int j = 0; j < n; ++j) at += list.load(j) < rank ? 1 : 0;
    if (at < k) emit(at, rank);
  }
  return n < k ? n : k;
}

QWEN3_DEVICE void adjust(Shared<float> values, int first, const SamplingRow& row, const TokenAdjustment& a) {
  if (a.id < first || a.id >= first + kPart) return;
  float x = values.load(a.id - first) + a.bias;
  if (a.count >= 0) {
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    if (a.count > 0) x -= row.frequency_penalty * static_cast<float>(a.count) + row.presence_penalty;
  }
  values.store(a.id - first, a.banned ? bits_as_f32(0xff800000u) : x);
}

// The part from `first` on goes through shared memory. `input`: a token that was generated once more than the
// adjustments know, or -1. mask: of the row, or null.
QWEN3_DEVICE void adjust_part(Quad (&quads)[kQuads], int first, const SamplingRow& s,
                              const TokenAdjustment* adjustments, int input, const uint32_t* mask, int vocab) {
  const auto values = shared_memory<float>(kList);
  const auto found = shared_memory<uint32_t>(kFlag);
  const int thread = thread_index().x;
  block_sync();  // the flag's last use
  if (thread == 0) found.store(0, 0);
  QWEN3_UNROLL
  for (int j = 0; j < kQuads; ++j) {
    const Quad& q = quads[j];
    values.as<Float4>().store(j * kThreads + thread, {q.v[0], q.v[1], q.v[2], q.v[3]});
  }
  block_sync();
  for (int i = s.adjustments_begin + thread; i < s.adjustments_end; i += kThreads) {
    TokenAdjustment a = load(adjustments + i);
    if (a.id == input) found.store(0, 1), a.count = (a.count > 0 ? a.count : 0) + 1;
    adjust(values, first, s, a);
  }
  block_sync();  // what other threads adjusted
  if (input >= 0) {
    if (thread == 0 && found.load() == 0) adjust(values, first, s, {input, 0, 1, 0});
    block_sync();
  }
  QWEN3_UNROLL
  for (int j = 0; j < kQuads; ++j) {
    const int quad = j * kThreads + thread, id = first + quad * 4;
    const Float4 x = values.as<Float4>().load(quad);
    quads[j] = {{x.x, x.y, x.z, x.w}};
    if (!mask || id >= vocab) continue;
    const uint32_t allowed = load(mask + id / 32) >> (id % 32);  // the four bits lie in one word
    QWEN3_UNROLL
    for (int c = 0; c < 4; ++c) {
      if (!(allowed >> c & 1u)) quads[j].v[c] = bits_as_f32(0xff800000u);
    }
  }
}

// Draws among the n best, whose ranks are in shared memory in order: at most 64, a thread each, and every token that
// top-k keeps is among them.
QWEN3_DEVICE void draw_few(int n, const SamplingRow& s, int32_t* id) {
  const auto ranks = shared_memory<uint64_t>(kBest), masses = shared_memory<uint64_t>(kBestMasses);
  const int thread = thread_index().x;
  const uint64_t best = ranks.load(0), rank = thread < n ? ranks.load(thread) : kNoRank;
  const float largest = rank_value(best);
  // Where every token is banned there are no weights to draw by: differences of infinities are no numbers.
  if (s.temperature == 0 || f32_as_bits(largest) == 0xff800000u) {
    if (thread == 0) store(id, rank_id(best));
    return;
  }
  uint64_t mass = thread < n ? to_mass((rank_value(rank) - largest) / s.temperature) : 0;
  if (thread < n) masses.store(thread, mass);
  block_sync();
  if (s.top_p < uint64_t{1} << 32) {
    uint64_t before = 0, total = 0;
    for (int i = 0; i < n; ++i) {
      if (i == thread) before = total;
      total += masses.load(i);
    }
    const uint64_t target = multiply_high(total, s.top_p << 32);  // floor(total * top_p / 2^32)
    if (thread > 0 && before >= target) mass = 0;
  }
  if (mass < s.min_mass) mass = 0;
  block_sync();
  if (thread < n) masses.store(thread, mass);
  block_sync();
  if (mass == 0) return;
  uint64_t before = 0, total = 0;  // by id
  for (int i = 0; i < n; ++i) {
    const uint64_t m = masses.load(i);
    total += m;
    if (rank_id(ranks.load(i)) < rank_id(rank)) before += m;
  }
  const Philox4 words = random_words(s.seed, static_cast<uint32_t>(s.choice), s.position);
  const uint64_t point = multiply_high(words.v[0] | static_cast<uint64_t>(words.v[1]) << 32, total);
  if (point >= before && point < before + mass) store(id, rank_id(rank));
}

QWEN3_KERNEL_OF(kThreads, 4)
sample_kernel(float* all_logits, int vocab, const SamplingRow* rows, const TokenAdjustment* adjustments,
              const uint32_t* mask, int32_t* ids, const int32_t* inputs, unsigned char* scratch, ScratchLayout layout) {
  const int64_t r = block_index().y;
  const int thread = thread_index().x, part = block_index().x, first = part * kPart;
  float* logits = all_logits + r * vocab;
  auto* const state = layout.at<RowState>(scratch, r, 0);
  grid_dependency_launch();
  grid_dependency_wait();
  const auto id_of = [&](int i) { return first + (i / 4 * kThreads + thread) * 4 + i % 4; };
  Quad quads[kQuads];
  QWEN3_UNROLL
  for (int j = 0; j < kQuads; ++j) quads[j] = load_quad(logits, id_of(j * 4), vocab);
  const SamplingRow s = load(rows + r);
  if (s.temperature < 0) return;
  bool broken = false;
  QWEN3_UNROLL
  for (int i = 0; i < kEach; ++i) {
    broken |= (f32_as_bits(quads[i / 4].v[i % 4]) & 0x7f800000u) == 0x7f800000u && id_of(i) < vocab;
  }
  if (ballot(broken) != 0 && thread % 32 == 0) atomic_add(&state->broken, 1);

  const int input = inputs && s.input_row >= 0 ? load(inputs + s.input_row) : -1;
  const uint32_t* const row_mask = mask && s.masked ? mask + r * ((vocab + 31) / 32) : nullptr;
  const bool few = is_few(s, layout);
  if (s.adjustments_begin < s.adjustments_end || input >= 0 || row_mask) {
    adjust_part(quads, first, s, adjustments, input, row_mask, vocab);
    QWEN3_UNROLL
    for (int j = 0; j < kQuads; ++j) {
      if (!few) store_quad(logits, id_of(j * 4), vocab, quads[j]);
    }
  }

  // Ids of a thread ascend: of equal keys the first one's is the lowest.
  constexpr int32_t kNoKey = -0x7fffffff - 1;  // below that of -infinity
  int32_t keys[kEach], best_key = kNoKey;
  int best_id = 0;
  QWEN3_UNROLL
  for (int i = 0; i < kEach; ++i) {
    keys[i] = id_of(i) < vocab ? order_key(quads[i / 4].v[i % 4]) : kNoKey;
    if (keys[i] > best_key) best_key = keys[i], best_id = id_of(i);
  }
  const int k = !few || s.temperature == 0 ? 1 : s.top_k;
  auto* const candidates = layout.at<uint64_t>(scratch, r, layout.candidates);
  const int kept = keep_best(
      k, best_key == kNoKey ? kNoRank : key_rank(best_key, best_id),
      [&](uint64_t least, const auto& visit) {
        QWEN3_UNROLL
        for (int i = 0; i < kEach; ++i) {
          if (keys[i] < rank_key(least) || keys[i] == kNoKey) continue;
          const uint64_t rank = key_rank(keys[i], id_of(i));
          if (rank <= least) visit(rank);
        }
      },
      [&](int place, uint64_t rank) { store(candidates + place * layout.parts + part, rank); });
  for (int place = kept + thread; place < k; place += kThreads)
    store(candidates + place * layout.parts + part, kNoRank);

  auto* const lowest_keys = layout.at<int32_t>(scratch, r, layout.lowest_keys);
  const bool buckets = !few && has_cuts(s);
  if (buckets) {
    for (int i = part * kThreads + thread; i < kBuckets; i += layout.parts * kThreads) {
      store(layout.at<uint64_t>(scratch, r, layout.bucket_masses) + i, 0);
      store(layout.at<int32_t>(scratch, r, layout.bucket_counts) + i, 0);
    }
    int32_t lowest = 0x7fffffff;
    QWEN3_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if (keys[i] < lowest && keys[i] > kInfinityKey) lowest = keys[i];
    }
    lowest = warp_lowest(lowest);
    if (thread % 32 == 0) store(lowest_keys + part * kWarps + thread / 32, lowest);
  }
  if (!arrive_last(state, layout.parts, shared_memory<uint32_t>(kTold))) return;

  // The whole row.
  const auto ranks = shared_memory<uint64_t>(kBest);
  uint64_t best = kNoRank;
  for (int i = thread; i < k * layout.parts; i += kThreads) {
    const uint64_t rank = load(candidates + i);
    best = rank < best ? rank : best;
  }
  const int n = keep_best(
      k, best,
      [&](uint64_t least, const auto& visit) {
        for (int i = thread; i < k * layout.parts; i += kThreads) {
          const uint64_t rank = load(candidates + i);
          if (rank <= least) visit(rank);
        }
      },
      [&](int place, uint64_t rank) { ranks.store(place, rank); });
  block_sync();
  const float largest = rank_value(ranks.load(0));
  broken = load(&state->broken) > 0;
  if (buckets && thread < 32) {
    int32_t lowest = 0x7fffffff;
    for (int i = thread; i < layout.parts * kWarps; i += 32) {
      const int32_t key = load(lowest_keys + i);
      lowest = key < lowest ? key : lowest;
    }
    lowest = warp_lowest(lowest);
    if (thread == 0) store(&state->lowest, key_value(lowest));
  }
  block_sync();  // all know whether the row is broken
  if (thread == 0) {
    store(&state->arrived, 0), store(&state->broken, 0), store(&state->largest, largest);
    store(&state->finished, few || broken || f32_as_bits(largest) == 0xff800000u ? 1 : 0);
    if (broken || !few) store(ids + r, broken ? -1 : rank_id(ranks.load(0)));
  }
  if (few && !broken) draw_few(n, load(rows + r), ids + r);
}

// --- rows without a small top-k ---

constexpr int kDrawThreads = 1024;
static_assert(kDrawThreads == kBuckets && kDrawThreads == 32 * 32);
constexpr int kQuadsAtOnce = 4;  // loads in flight when one block reads a row
constexpr int kMostGathered = 2048;
// Shared memory: ranks and weights of the logits of a bucket; a histogram of weights; one of counts; sums of the warps;
// words told to all.
constexpr int kRanks = 0, kMasses = kMostGathered * 8, kHistogram = kMasses + kMostGathered * 8,
              kCounts = kHistogram + kBuckets * 8, kSums = kCounts + kBuckets * 4, kTellAll = kSums + 32 * 8,
              kGathered = kTellAll + 4 * 8, kDrawTold = kGathered + 4, kDrawBytes = kDrawTold + 4;

// Sum over the threads before this one.
QWEN3_DEVICE uint64_t block_exclusive64(uint64_t value, uint64_t& total) {
  const auto sums = shared_memory<uint64_t>(kSums);
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  const uint64_t inclusive = warp_inclusive64(value);
  block_sync();  // the sums of the last call have been read
  if (lane == 31) sums.store(warp, inclusive);
  block_sync();
  const uint64_t warps = warp_inclusive64(sums.load(lane));
  total = shuffle64(warps, 31);
  const uint64_t before = shuffle64(warps, warp > 0 ? warp - 1 : 0);
  return (warp > 0 ? before : 0) + inclusive - value;
}

struct Row {
  const float* logits;
  int vocab;
  float largest, temperature;
  float scale;        // buckets per exponent
  uint64_t last;      // rank of the last token that top-k and top-p keep
  float last_value;   // its logit
  uint64_t min_mass;  // by min-p
  QWEN3_DEVICE float exponent(float logit) const { return (logit - largest) / temperature; }
  // 0 for what is cut.
  QWEN3_DEVICE uint64_t kept(float logit, int id) const {
    if (logit < last_value) return 0;
    const uint64_t m = to_mass(exponent(logit));
    return m < min_mass || rank_of(logit, id) > last ? 0 : m;
  }
  // Of an exponent that has a weight. Monotonous: a better logit is never in a later bucket.
  QWEN3_DEVICE int bucket(float exponent) const {
    const int b = static_cast<int>(-exponent * scale);
    return b < kBuckets ? b : kBuckets - 1;
  }
};

// A block reads the row, a slice a warp at a time: visit(id, logit) for the few logits in [least, most], then
// done(first id) after each four.
template <class Visit, class Done>
QWEN3_DEVICE void for_each_hit(const Row& row, float most, float least, const Visit& visit, const Done& done) {
  const int lane = thread_index().x % 32;
  for (int slice = thread_index().x / 32; slice * kSlice < row.vocab; slice += kQuadsAtOnce * 32) {
    const int first = slice * kSlice + lane * 4;
    Quad quads[kQuadsAtOnce];
    QWEN3_UNROLL
    for (int i = 0; i < kQuadsAtOnce; ++i) quads[i] = load_quad(row.logits, first + i * kDrawThreads * 4, row.vocab);
    uint32_t hits = 0;
    QWEN3_UNROLL
    for (int i = 0; i < kQuadsAtOnce * 4; ++i) {
      const float logit = quads[i / 4].v[i % 4];
      hits |= logit >= least && logit <= most ? 1u << i : 0u;
    }
    for (int i = 0; i < kQuadsAtOnce; ++i, hits >>= 4) {
      const int id = first + i * kDrawThreads * 4;
      for (uint32_t four = hits & 15u; four != 0; four &= four - 1) {
        const int c = popcount((four & (0u - four)) - 1);
        // Behind the vocabulary nothing is read again: what stands there for a logit is -infinity, and has no weight.
        if (id + c < row.vocab) visit(id + c, load(row.logits + id + c));
      }
      done(id);
    }
  }
}

// The logits of one bucket that are not cut yet: a list in shared memory, or the row again where they are too many.
struct BucketOf {
  const Row& row;
  int bucket;
  bool listed;
  // visit(rank, mass)
  template <class Visit>
  QWEN3_DEVICE void in_row(const Visit& visit) const {
    // The bucket's ends, with room for every rounding: two comparisons leave out nearly all others.
    const float width = row.scale > 0 ? row.temperature / row.scale : 0, middle = row.largest;
    const float slack = 0.01f * width + 1e-6f * (row.largest > 0 ? row.largest : -row.largest) + 1e-30f;
    const float most = middle - static_cast<float>(bucket) * width * 0.99999f + slack;
    const float least = bucket == kBuckets - 1 || row.scale == 0
                            ? bits_as_f32(0xff800000u)
                            : middle - static_cast<float>(bucket + 1) * width * 1.00001f - slack;
    for_each_hit(
        row, most, least,
        [&](int id, float logit) {
          const float e = row.exponent(logit);
          const uint64_t rank = rank_of(logit, id), m = to_mass(e);
          if (m > 0 && row.bucket(e) == bucket && rank <= row.last) visit(rank, m);
        },
        [](int) {});
  }
  template <class Visit>
  QWEN3_DEVICE void each(const Visit& visit) const {
    if (!listed) {
      in_row(visit);
      return;
    }
    const auto ranks = shared_memory<uint64_t>(kRanks), masses = shared_memory<uint64_t>(kMasses);
    const int n = static_cast<int>(shared_memory<uint32_t>(kGathered).load());
    for (int i = thread_index().x; i < n; i += kDrawThreads) visit(ranks.load(i), masses.load(i));
  }
};
QWEN3_DEVICE BucketOf gather_bucket(const Row& row, int bucket, uint64_t n) {
  const auto ranks = shared_memory<uint64_t>(kRanks), masses = shared_memory<uint64_t>(kMasses);
  const auto gathered = shared_memory<uint32_t>(kGathered);
  const BucketOf of{row, bucket, n <= kMostGathered};
  if (!of.listed) return of;
  block_sync();  // the list's last use
  if (thread_index().x == 0) gathered.store(0, 0);
  block_sync();
  of.in_row([&](uint64_t rank, uint64_t mass) {
    const int at = static_cast<int>(shared_atomic_add(gathered, 1));
    ranks.store(at, rank), masses.store(at, mass);
  });
  block_sync();
  return of;
}

// The rank at which the running sum over the bucket reaches `target` (at least 1, at most the sum).
QWEN3_DEVICE uint64_t find_rank(const BucketOf& of, uint64_t target, bool count) {
  const auto histogram = shared_memory<uint64_t>(kHistogram), told = shared_memory<uint64_t>(kTellAll);
  const int thread = thread_index().x;
  uint64_t prefix = 0;
  for (int shift = 50; shift >= 0; shift -= 10) {
    block_sync();
    histogram.store(thread, 0);
    block_sync();
    of.each([&](uint64_t rank, uint64_t mass) {
      if (rank >> shift >> 10 == prefix) {
        shared_atomic_add64(histogram + static_cast<int>(rank >> shift & 1023), count ? 1 : mass);
      }
    });
    block_sync();  // all have been added
    const uint64_t mine = histogram.load(thread);
    uint64_t total;
    const uint64_t before = block_exclusive64(mine, total);
    if (before < target && target <= before + mine) {
      told.store(0, static_cast<uint64_t>(thread)), told.store(1, target - before);
    }
    block_sync();
    prefix = prefix << 10 | told.load(0);
    target = told.load(1);
  }
  return prefix;
}

QWEN3_DEVICE void cut_after(Row& row, uint64_t rank) {
  row.last = rank, row.last_value = rank_value(rank);
}

// Where top-k and top-p cut, from counts and weights of the buckets: thread i has those of bucket i.
QWEN3_DEVICE void find_cuts(Row& row, const SamplingRow& s, uint64_t count, uint64_t mass) {
  const auto told = shared_memory<uint64_t>(kTellAll);
  const int thread = thread_index().x;
  uint64_t n, total;
  const uint64_t count_before = block_exclusive64(count, n), mass_before = block_exclusive64(mass, total);
  // Tells all the bucket in which a sum that was `before` reaches the target.
  const auto tell = [&](uint64_t before, uint64_t mine, uint64_t target) {
    block_sync();
    if (before < target && target <= before + mine) {
      told.store(0, static_cast<uint64_t>(thread)), told.store(1, target - before);
      told.store(2, count), told.store(3, mass_before);
    }
    block_sync();
    return gather_bucket(row, static_cast<int>(told.load(0)), told.load(2));
  };
  // Tokens without weight cannot be kept: counting those that have some gives the same cut.
  if (s.top_k > 0 && static_cast<uint64_t>(s.top_k) < n) {
    const BucketOf of = tell(count_before, count, static_cast<uint64_t>(s.top_k));
    const uint64_t target = told.load(1), earlier = told.load(3), rank = find_rank(of, target, true);
    uint64_t inside = 0;
    of.each([&](uint64_t other, uint64_t m) { inside += other <= rank ? m : 0; });
    block_exclusive64(inside, total);
    total += earlier;
    cut_after(row, rank);
  }
  if (s.top_p < uint64_t{1} << 32) {
    const uint64_t target = multiply_high(total, s.top_p << 32);  // floor(total * top_p / 2^32)
    const BucketOf of = tell(mass_before, mass, target > 0 ? target : 1);
    cut_after(row, find_rank(of, told.load(1), false));
  }
}

// The token in which the random point falls when the kept weights stand one after another by id.
QWEN3_DEVICE void draw_token(const Row& row, const SamplingRow& s, const uint64_t* slice_masses, int slices,
                             int32_t* id) {
  const auto told = shared_memory<uint64_t>(kTellAll);
  const int thread = thread_index().x;
  const int each = (slices + kDrawThreads - 1) / kDrawThreads;
  const int begin = thread * each < slices ? thread * each : slices,
            end = begin + each < slices ? begin + each : slices;
  uint64_t mine = 0, total;
  for (int i = begin; i < end; ++i) mine += load(slice_masses + i);
  const uint64_t before = block_exclusive64(mine, total);
  const Philox4 words = random_words(s.seed, static_cast<uint32_t>(s.choice), s.position);
  uint64_t point = multiply_high(words.v[0] | static_cast<uint64_t>(words.v[1]) << 32, total);
  block_sync();
  if (point >= before && point < before + mine) {
    point -= before;
    int slice = begin;
    for (; point >= load(slice_masses + slice); ++slice) point -= load(slice_masses + slice);
    told.store(0, static_cast<uint64_t>(slice)), told.store(1, point);
  }
  block_sync();
  if (thread >= 32) return;
  const int first = static_cast<int>(told.load(0)) * kSlice + thread * 4;
  point = told.load(1);
  const Quad q = load_quad(row.logits, first, row.vocab);
  uint64_t masses[4], sum = 0;
  QWEN3_UNROLL
  for (int c = 0; c < 4; ++c) masses[c] = row.kept(q.v[c], first + c), sum += masses[c];
  uint64_t from = warp_inclusive64(sum) - sum;
  QWEN3_UNROLL
  for (int c = 0; c < 4; ++c) {
    if (point >= from && point < from + masses[c]) store(id, first + c);
    from += masses[c];
  }
}

// Each lane of a warp gives the sum of its four logits, the first lane's first is `id`.
QWEN3_DEVICE void store_slice(uint64_t sum, int id, int vocab, uint64_t* slice_masses) {
  if (ballot(sum > 0) != 0) sum = warp_sum64(sum);
  if (thread_index().x % 32 == 0 && id < vocab) store(slice_masses + id / kSlice, sum);
}

QWEN3_KERNEL(kDrawThreads)
draw_kernel(const float* all_logits, int vocab, const SamplingRow* rows, int32_t* ids, unsigned char* scratch,
            ScratchLayout layout) {
  const int64_t r = block_index().y;
  const int thread = thread_index().x;
  grid_dependency_launch();
  grid_dependency_wait();
  auto* const state = layout.at<RowState>(scratch, r, 0);
  bool cuts;
  {
    const SamplingRow s = load(rows + r);
    if (s.temperature < 0 || is_few(s, layout) || load(&state->finished)) return;
    cuts = has_cuts(s);
  }
  Row row{all_logits + r * vocab,
          vocab,
          load(&state->largest),
          load(&rows[r].temperature),
          0,
          kNoRank,
          bits_as_f32(0xff800000u),
          cuts ? uint64_t{1} : load(&rows[r].min_mass)};
  if (cuts) {
    const float lowest = row.exponent(load(&state->lowest)), range = lowest < kNegligible ? -kNegligible : -lowest;
    row.scale = range > 1e-30f ? static_cast<float>(kBuckets - 1) / range : 0;
  }

  const auto histogram = shared_memory<uint64_t>(kHistogram);
  const auto counts = shared_memory<uint32_t>(kCounts);
  auto* const slice_masses = layout.at<uint64_t>(scratch, r, layout.slice_masses);
  auto* const bucket_masses = layout.at<uint64_t>(scratch, r, layout.bucket_masses);
  auto* const bucket_counts = layout.at<int32_t>(scratch, r, layout.bucket_counts);
  if (cuts) histogram.store(thread, 0), counts.store(thread, 0);
  block_sync();
  for (int part = block_index().x; part < layout.parts; part += grid_dim().x) {
    const int id = part * kPart + thread * 4;
    const Quad q = load_quad(row.logits, id, vocab);
    if (!cuts) {
      uint64_t sum = 0;
      QWEN3_UNROLL
      for (int c = 0; c < 4; ++c) sum += row.kept(q.v[c], id + c);
      store_slice(sum, id, vocab, slice_masses);
      continue;
    }
    QWEN3_UNROLL
    for (int c = 0; c < 4; ++c) {
      const float e = row.exponent(q.v[c]);
      const uint64_t m = to_mass(e);
      if (m == 0) continue;
      const int bucket = row.bucket(e);
      shared_atomic_add(counts + bucket, 1), shared_atomic_add64(histogram + bucket, m);
    }
  }
  if (cuts) {
    block_sync();
    if (counts.load(thread) > 0) {
      atomic_add(bucket_counts + thread, static_cast<int32_t>(counts.load(thread)));
      atomic_add64(bucket_masses + thread, histogram.load(thread));
    }
  }
  if (!arrive_last(state, grid_dim().x, shared_memory<uint32_t>(kDrawTold))) return;
  if (thread == 0) store(&state->arrived, 0);
  if (cuts) {
    find_cuts(row, load(rows + r), static_cast<uint64_t>(load(bucket_counts + thread)), load(bucket_masses + thread));
    row.min_mass = load(&rows[r].min_mass);
    uint64_t sum = 0;
    for_each_hit(
        row, row.largest, row.last_value, [&](int at, float logit) { sum += row.kept(logit, at); },
        [&](int at) { store_slice(sum, at, vocab, slice_masses), sum = 0; });
    block_sync();
  }
  draw_token(row, load(rows + r), slice_masses, layout.slices, ids + r);
}

// --- log-probabilities ---

// A block per row.
QWEN3_KERNEL(kDrawThreads)
log_probability_kernel(const float* all_logits, int vocab, const int32_t* ids, float* out) {
  const auto largests = shared_memory<float>(kHistogram);
  const int64_t r = block_index().x;
  const int thread = thread_index().x;
  grid_dependency_launch();
  grid_dependency_wait();
  const float* const logits = all_logits + r * vocab;
  float largest = bits_as_f32(0xff800000u);
  for (int id = thread * 4; id < vocab; id += kDrawThreads * 4) {
    const Quad q = load_quad(logits, id, vocab);
    QWEN3_UNROLL
    for (int c = 0; c < 4; ++c) largest = maximum(largest, q.v[c]);
  }
  QWEN3_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) largest = maximum(largest, shuffle_xor(largest, lanes));
  if (thread % 32 == 0) largests.store(thread / 32, largest);
  block_sync();
  for (int w = 0; w < kDrawThreads / 32; ++w) largest = maximum(largest, largests.load(w));
  uint64_t sum = 0, total;
  for (int id = thread * 4; id < vocab; id += kDrawThreads * 4) {
    const Quad q = load_quad(logits, id, vocab);
    QWEN3_UNROLL
    for (int c = 0; c < 4; ++c) sum += to_mass(q.v[c] - largest);
  }
  block_exclusive64(sum, total);
  if (thread != 0) return;
  const int id = load(ids + r);
  if (id < 0) return;
  store(out + r, (load(logits + id) - largest) - log_f32(static_cast<float>(total) / kOne));
}

ScratchLayout scratch_layout(int vocab) {
  ScratchLayout l{};
  l.parts = (vocab + kPart - 1) / kPart, l.slices = (vocab + kSlice - 1) / kSlice;
  // What the last block lists are k groups of candidates.
  for (int k = 1; k <= kMostFew && k * group_threads(k) * ((k * l.parts + kThreads - 1) / kThreads) <= kMostListed; ++k)
    l.few = k;
  int64_t at = sizeof(RowState);
  const auto place = [&](int64_t bytes) {
    const int64_t here = at;
    at += (bytes + 15) / 16 * 16;
    return here;
  };
  l.lowest_keys = place(int64_t{l.parts} * kWarps * 4);
  l.candidates = place(int64_t{l.few} * l.parts * 8);
  l.bucket_masses = place(kBuckets * 8), l.bucket_counts = place(kBuckets * 4);
  l.slice_masses = place(int64_t{l.slices} * 8);
  l.bytes = at;
  return l;
}

}  // namespace

SamplingRow sampling_row(float temperature, float top_p, int32_t top_k, float min_p) {
  SamplingRow row{};
  row.temperature = temperature;
  row.top_k = top_k;
  row.top_p = static_cast<uint64_t>(static_cast<double>(top_p) * 4294967296.0);
  if (top_p >= 1) row.top_p = uint64_t{1} << 32;
  row.min_mass = static_cast<uint64_t>(min_p * kOne);
  if (row.min_mass == 0) row.min_mass = 1;  // tokens without weight are never drawn
  row.repetition_penalty = 1, row.input_row = -1;
  return row;
}

size_t sampling_scratch_bytes(int n_rows, int vocab) {
  return static_cast<size_t>(n_rows) * static_cast<size_t>(scratch_layout(vocab).bytes);
}

void sample(Stream stream, float* logits, int n_rows, int vocab, const SamplingRow* rows,
            const TokenAdjustment* adjustments, const uint32_t* mask, int32_t* ids, void* scratch,
            const int32_t* inputs) {
  // Two blocks of draw_kernel for each multiprocessor of a large chip.
  constexpr int kDrawBlocks = 256;
  const ScratchLayout layout = scratch_layout(vocab);
  auto* const memory = static_cast<unsigned char*>(scratch);
  launch(stream, "sample", sample_kernel, {{layout.parts, n_rows, 1}, {kThreads, 1, 1}, kSampleBytes, true}, logits,
         vocab, rows, adjustments, mask, ids, inputs, memory, layout);
  const int blocks = std::clamp(kDrawBlocks / n_rows, 1, layout.parts);
  launch(stream, "sample_all", draw_kernel, {{blocks, n_rows, 1}, {kDrawThreads, 1, 1}, kDrawBytes, true}, logits,
         vocab, rows, ids, memory, layout);
}

void log_probabilities(Stream stream, const float* logits, int n_rows, int vocab, const int32_t* ids, float* out) {
  launch(stream, "log_probabilities", log_probability_kernel, {{n_rows, 1, 1}, {kDrawThreads, 1, 1}, kDrawBytes, true},
         logits, vocab, ids, out);
}

}  // namespace qwen3::cuda
