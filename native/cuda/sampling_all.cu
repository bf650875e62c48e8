// The draw of rows without a small top-k, over all of the vocabulary, and log-probabilities.
//
// draw_kernel: largest logit and range are known from sample_kernel. Weights are summed by slices of 128 ids; where
// there are cuts, counts and weights also by 1,024 buckets of the exponent. The last block finds the bucket in which a
// cut falls, then the rank by radix selection among the logits of that bucket, 10 bits a pass; then the slice and the
// token in which the random point falls. The launch is there for every step, because a graph does not know the rows'
// parameters: its blocks end at once when they have nothing to do.

#include <algorithm>

#include "cuda/sampling_row.h"

namespace qwen3::cuda {
namespace {

using namespace sampling;

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

// Behind top_kernel: the row's largest logit is known. Sums are exact, whatever the blocks.
QWEN3_KERNEL(kDrawThreads)
log_sum_kernel(const float* all_logits, int vocab, const SamplingRow* rows, const int32_t* ids, RowLogprobs* out,
               unsigned char* scratch, ScratchLayout layout) {
  const int64_t r = block_index().y;
  const int thread = thread_index().x, blocks = grid_dim().x;
  grid_dependency_launch();
  grid_dependency_wait();
  const int id = load(ids + r);
  if (load(&rows[r].logprobs) == 0 || id < 0) return;
  auto* const state = layout.at<RowState>(scratch, r, 0);
  auto* const sums = layout.at<uint64_t>(scratch, r, layout.slice_masses);  // of blocks: no more than slices
  const float* const logits = all_logits + r * vocab;
  const float largest = load(&state->largest);
  uint64_t sum = 0, total;
  for (int part = block_index().x; part < layout.parts; part += blocks) {
    const Quad q = load_quad(logits, part * kPart + thread * 4, vocab);
    QWEN3_UNROLL
    for (int c = 0; c < 4; ++c) sum += to_mass(q.v[c] - largest);
  }
  block_exclusive64(sum, total);
  if (thread == 0) store(sums + block_index().x, total);
  if (!arrive_last(state, blocks, shared_memory<uint32_t>(kDrawTold))) return;
  block_exclusive64(thread < blocks ? load(sums + thread) : 0, total);
  const float log_sum = log_f32(static_cast<float>(total) / kOne);
  if (thread == 0) store(&state->arrived, 0), store(&out[r].chosen, (load(logits + id) - largest) - log_sum);
  if (thread < load(&out[r].n)) {
    store(&out[r].values[thread], (load(&out[r].values[thread]) - largest) - log_sum);
  }
}

// Blocks of a row: two for each multiprocessor of a large chip, at most one for each part.
int blocks_of(int n_rows, const ScratchLayout& layout) {
  return std::clamp(256 / n_rows, 1, layout.parts);
}

}  // namespace

void sample_all(Stream stream, const float* logits, int n_rows, int vocab, const SamplingRow* rows, int32_t* ids,
                unsigned char* scratch, const ScratchLayout& layout) {
  launch(stream, "sample_all", draw_kernel,
         {{blocks_of(n_rows, layout), n_rows, 1}, {kDrawThreads, 1, 1}, kDrawBytes, true}, logits, vocab, rows, ids,
         scratch, layout);
}

void sum_logprobs(Stream stream, const float* logits, int n_rows, int vocab, const SamplingRow* rows,
                  const int32_t* ids, RowLogprobs* out, unsigned char* scratch, const ScratchLayout& layout) {
  launch(stream, "sum_logprobs", log_sum_kernel,
         {{blocks_of(n_rows, layout), n_rows, 1}, {kDrawThreads, 1, 1}, kDrawBytes, true}, logits, vocab, rows, ids,
         out, scratch, layout);
}

}  // namespace qwen3::cuda
