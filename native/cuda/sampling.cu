// Penalties, temperature, top-k, top-p, min-p and the draw, without a sort: rows that are greedy or have a small top-k.
// The others are prepared here and drawn by sampling_all.cu; ranks and weights: sampling_row.h.
//
// sample_kernel: a block per 4,096 logits, which it holds in registers. It checks and adjusts them and keeps the best k
// of its part: the best ranks of 64 groups of 64 logits (or 128 of 32) are compared with each other, the k-th of them
// is reached by k logits at least, and the few that reach it are ranked among themselves. The last block of a row does
// the same with what the parts kept. For k up to 64 and for greedy rows that ends it: no other logit has a weight to be
// computed.

#include <algorithm>

#include "cuda/sampling_row.h"

namespace qwen3::cuda {
namespace {

using namespace sampling;

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

// The i-th of a thread's logits; its ids ascend.
QWEN3_DEVICE int id_of(int first, int i) {
  return first + (i / 4 * kThreads + thread_index().x) * 4 + i % 4;
}
QWEN3_DEVICE void load_part(const float* logits, int first, int vocab, Quad (&quads)[kQuads]) {
  QWEN3_UNROLL
  for (int j = 0; j < kQuads; ++j) quads[j] = load_quad(logits, id_of(first, j * 4), vocab);
}

constexpr int32_t kNoKey = -0x7fffffff - 1;  // below that of -infinity

// A thread's part of the logits from `first` on. Of equal keys the first one's id is the lowest.
struct PartKeys {
  int32_t keys[kEach], best_key = kNoKey;
  int best_id = 0;
  QWEN3_DEVICE PartKeys(const Quad (&quads)[kQuads], int first, int vocab) {
    QWEN3_UNROLL
    for (int i = 0; i < kEach; ++i) {
      keys[i] = id_of(first, i) < vocab ? order_key(quads[i / 4].v[i % 4]) : kNoKey;
      if (keys[i] > best_key) best_key = keys[i], best_id = id_of(first, i);
    }
  }
  // Leaves the k best of the part as candidates, `stride` apart.
  QWEN3_DEVICE void keep(int k, int first, uint64_t* candidates, int stride) const {
    const int kept = keep_best(
        k, best_key == kNoKey ? kNoRank : key_rank(best_key, best_id),
        [&](uint64_t least, const auto& visit) {
          QWEN3_UNROLL
          for (int i = 0; i < kEach; ++i) {
            if (keys[i] < rank_key(least) || keys[i] == kNoKey) continue;
            const uint64_t rank = key_rank(keys[i], id_of(first, i));
            if (rank <= least) visit(rank);
          }
        },
        [&](int place, uint64_t rank) { store(candidates + place * stride, rank); });
    for (int place = kept + thread_index().x; place < k; place += kThreads) store(candidates + place * stride, kNoRank);
  }
};

// By the last block of a row: the k best of all parts' candidates, in order, into kBest. Returns how many there are.
QWEN3_DEVICE int keep_row(int k, const uint64_t* candidates, int parts) {
  const auto ranks = shared_memory<uint64_t>(kBest);
  const int thread = thread_index().x;
  uint64_t best = kNoRank;
  for (int i = thread; i < k * parts; i += kThreads) {
    const uint64_t rank = load(candidates + i);
    best = rank < best ? rank : best;
  }
  const int n = keep_best(
      k, best,
      [&](uint64_t least, const auto& visit) {
        for (int i = thread; i < k * parts; i += kThreads) {
          const uint64_t rank = load(candidates + i);
          if (rank <= least) visit(rank);
        }
      },
      [&](int place, uint64_t rank) { ranks.store(place, rank); });
  block_sync();
  return n;
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
  Quad quads[kQuads];
  load_part(logits, first, vocab, quads);
  const SamplingRow s = load(rows + r);
  if (s.temperature < 0) return;
  bool broken = false;
  QWEN3_UNROLL
  for (int i = 0; i < kEach; ++i) {
    broken |= (f32_as_bits(quads[i / 4].v[i % 4]) & 0x7f800000u) == 0x7f800000u && id_of(first, i) < vocab;
  }
  if (ballot(broken) != 0 && thread % 32 == 0) atomic_add(&state->broken, 1);

  const int input = inputs && s.input_row >= 0 ? load(inputs + s.input_row) : -1;
  const uint32_t* const row_mask = mask && s.masked ? mask + r * ((vocab + 31) / 32) : nullptr;
  const bool few = is_few(s, layout);
  if (s.adjustments_begin < s.adjustments_end || input >= 0 || row_mask) {
    adjust_part(quads, first, s, adjustments, input, row_mask, vocab);
    QWEN3_UNROLL
    for (int j = 0; j < kQuads; ++j) {
      if (!few) store_quad(logits, id_of(first, j * 4), vocab, quads[j]);
    }
  }

  const PartKeys part_keys(quads, first, vocab);
  const int k = !few || s.temperature == 0 ? 1 : s.top_k;
  auto* const candidates = layout.at<uint64_t>(scratch, r, layout.candidates);
  part_keys.keep(k, first, candidates + part, layout.parts);

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
      const int32_t key = part_keys.keys[i];
      if (key < lowest && key > kInfinityKey) lowest = key;
    }
    lowest = warp_lowest(lowest);
    if (thread % 32 == 0) store(lowest_keys + part * kWarps + thread / 32, lowest);
  }
  if (!arrive_last(state, layout.parts, shared_memory<uint32_t>(kTold))) return;

  const auto ranks = shared_memory<uint64_t>(kBest);
  const int n = keep_row(k, candidates, layout.parts);
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

// The most likely tokens of rows that want log-probabilities, with their logits, and the largest logit.
QWEN3_KERNEL_OF(kThreads, 4)
top_kernel(const float* all_logits, int vocab, const SamplingRow* rows, const int32_t* ids, RowLogprobs* out,
           unsigned char* scratch, ScratchLayout layout) {
  const int64_t r = block_index().y;
  const int thread = thread_index().x, part = block_index().x, first = part * kPart;
  grid_dependency_launch();
  grid_dependency_wait();
  const int top = load(&rows[r].logprobs) - 1;
  if (top < 0 || load(ids + r) < 0) return;
  const int k = top > 0 ? top : 1;
  Quad quads[kQuads];
  load_part(all_logits + r * vocab, first, vocab, quads);
  auto* const state = layout.at<RowState>(scratch, r, 0);
  auto* const candidates = layout.at<uint64_t>(scratch, r, layout.candidates);
  PartKeys(quads, first, vocab).keep(k, first, candidates + part, layout.parts);
  if (!arrive_last(state, layout.parts, shared_memory<uint32_t>(kTold))) return;
  const auto ranks = shared_memory<uint64_t>(kBest);
  const int found = keep_row(k, candidates, layout.parts), n = found < top ? found : top;
  if (thread == 0) {
    store(&state->arrived, 0), store(&state->largest, rank_value(ranks.load(0)));
    store(&out[r].n, n);
  }
  if (thread < n) {
    store(&out[r].ids[thread], rank_id(ranks.load(thread)));
    store(&out[r].values[thread], rank_value(ranks.load(thread)));
  }
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
  const ScratchLayout layout = scratch_layout(vocab);
  auto* const memory = static_cast<unsigned char*>(scratch);
  launch(stream, "sample", sample_kernel, {{layout.parts, n_rows, 1}, {kThreads, 1, 1}, kSampleBytes, true}, logits,
         vocab, rows, adjustments, mask, ids, inputs, memory, layout);
  sample_all(stream, logits, n_rows, vocab, rows, ids, memory, layout);
}

bool gives_logprobs(const SamplingRow& row, int vocab) {
  const ScratchLayout layout = scratch_layout(vocab);
  const bool adjusted = row.adjustments_begin < row.adjustments_end || row.input_row >= 0 || row.masked;
  return row.logprobs - 1 <= std::min(layout.few, kMostDeviceLogprobs) && (is_few(row, layout) || !adjusted);
}

void log_probabilities(Stream stream, const float* logits, int n_rows, int vocab, const SamplingRow* rows,
                       const int32_t* ids, RowLogprobs* out, void* scratch) {
  const ScratchLayout layout = scratch_layout(vocab);
  auto* const memory = static_cast<unsigned char*>(scratch);
  launch(stream, "top_logprobs", top_kernel, {{layout.parts, n_rows, 1}, {kThreads, 1, 1}, kSampleBytes, true}, logits,
         vocab, rows, ids, out, memory, layout);
  sum_logprobs(stream, logits, n_rows, vocab, rows, ids, out, memory, layout);
}

}  // namespace qwen3::cuda
