// Penalties, temperature, top-k, top-p, min-p and the draw, without a sort. See engine/sampler.h for the rules.
//
// One block of 512 threads per row. A cut is a boundary in the order (logit descending, id ascending): the first token
// at which a running sum of counts (top-k) or weights (top-p) reaches its target. It is found by radix selection, 8
// bits a pass: a histogram of the tokens that share the prefix, then the digit in which the target falls. 4 passes for
// the bits of the logit, 3 for those of the id. The row (600 KB at 151,936 tokens) stays in L2 between passes; tokens
// whose weight is 0, nearly all, are skipped before the histogram. Weights are fixed point (2^39 = 1): sums are exact
// in any order. Compiled without contraction (cuda.cmake): exp_f32 must give the host's bits.

#include "cuda/sampling.h"

#include "core/math.h"
#include "core/random.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr float kOne = 549755813888.0f;  // 2^39
constexpr float kNegligible = -27.1f;    // 2^-39 = e^-27.03

// Shared memory: a histogram, per-warp sums, and words that one thread tells all.
constexpr int kHistogram = 0, kSums = 256 * 8, kTold = kSums + kWarps * 8, kBytes = kTold + 32;

QWEN3_DEVICE int32_t order_key(float value) {
  const auto bits = static_cast<int32_t>(f32_as_bits(value + 0.0f));
  return bits ^ ((bits >> 31) & 0x7fffffff);
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

QWEN3_DEVICE uint64_t block_sum64(uint64_t x) {
  const auto sums = shared_memory<uint64_t>(kSums);
  x = warp_sum64(x);
  block_sync();
  if (thread_index().x % 32 == 0) sums.store(thread_index().x / 32, x);
  block_sync();
  uint64_t total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums.load(w);
  return total;
}

// The best (key, lowest id), as one number that is larger for better.
QWEN3_DEVICE uint64_t block_best(uint64_t x) {
  const auto sums = shared_memory<uint64_t>(kSums);
  const int lane = thread_index().x % 32;
  QWEN3_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = shuffle64(x, lane ^ mask);
    if (other > x) x = other;
  }
  block_sync();
  if (lane == 0) sums.store(thread_index().x / 32, x);
  block_sync();
  uint64_t best = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (sums.load(w) > best) best = sums.load(w);
  }
  return best;
}

// The order of the cuts as one ascending number: 32 bits of the key, best first, then 24 of the id.
QWEN3_DEVICE uint64_t rank_of(int32_t key, int id) {
  const uint32_t ordered = static_cast<uint32_t>(key) ^ 0x80000000u;
  return static_cast<uint64_t>(~ordered) << 24 | static_cast<uint64_t>(id);
}
constexpr int kRankBits = 56;

struct Row {
  const float* logits;
  int vocab;
  float largest, temperature;
  uint64_t last;      // rank of the last token kept by top-k and top-p
  uint64_t min_mass;  // by min-p
  QWEN3_DEVICE uint64_t mass(float logit) const { return to_mass((logit - largest) / temperature); }
  // 0 for what is cut.
  QWEN3_DEVICE uint64_t kept(int id) const {
    const float logit = load(logits + id);
    const uint64_t m = mass(logit);
    return m < min_mass || rank_of(order_key(logit), id) > last ? 0 : m;
  }
};

// The rank of the token at which the running sum over kept tokens reaches `target` (at least 1, at most the sum).
QWEN3_DEVICE uint64_t find_boundary(const Row& row, uint64_t target, bool count) {
  const auto histogram = shared_memory<uint64_t>(kHistogram), told = shared_memory<uint64_t>(kTold);
  const int thread = thread_index().x;
  uint64_t prefix = 0;
  for (int shift = kRankBits - 8; shift >= 0; shift -= 8) {
    block_sync();
    if (thread < 256) histogram.store(thread, 0);
    block_sync();
    for (int id = thread; id < row.vocab; id += kThreads) {
      const uint64_t m = row.kept(id);
      if (m == 0) continue;
      const uint64_t rank = rank_of(order_key(load(row.logits + id)), id);
      if (rank >> shift >> 8 != prefix) continue;
      shared_atomic_add64(histogram + static_cast<int>(rank >> shift & 255), count ? 1 : m);
    }
    block_sync();
    if (thread == 0) {
      int digit = 0;
      uint64_t left = target;
      while (digit < 255 && histogram.load(digit) < left) left -= histogram.load(digit++);
      told.store(0, static_cast<uint64_t>(digit)), told.store(1, left);
    }
    block_sync();
    prefix = prefix << 8 | told.load(0);
    target = told.load(1);
  }
  return prefix;
}

QWEN3_DEVICE uint64_t kept_mass(const Row& row, int begin, int end, int step) {
  uint64_t sum = 0;
  for (int id = begin; id < end; id += step) sum += row.kept(id);
  return sum;
}

// The token in which `point` falls when the kept weights stand one after another by id. Warps own contiguous parts.
QWEN3_DEVICE int find_point(const Row& row, uint64_t point) {
  const auto sums = shared_memory<uint64_t>(kSums), told = shared_memory<uint64_t>(kTold);
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  const int part = (row.vocab + kThreads - 1) / kThreads * 32, begin = warp * part;
  const int end = begin + part < row.vocab ? begin + part : row.vocab;
  const uint64_t sum = warp_sum64(kept_mass(row, begin + lane, end, 32));
  block_sync();
  if (lane == 0) sums.store(warp, sum);
  block_sync();
  for (int w = 0; w < warp; ++w) {
    const uint64_t s = sums.load(w);
    point = point >= s ? point - s : ~uint64_t{0};  // it fell into an earlier warp's part
    if (point == ~uint64_t{0}) break;
  }
  if (point < sum) {
    for (int at = begin; at < end; at += 32) {
      const uint64_t m = at + lane < end ? row.kept(at + lane) : 0;
      const uint64_t total = warp_sum64(m);
      if (point >= total) {
        point -= total;
        continue;
      }
      uint64_t before = m;  // inclusive sum over lanes
      QWEN3_UNROLL
      for (int delta = 1; delta < 32; delta *= 2) {
        const uint64_t below = shuffle64(before, lane >= delta ? lane - delta : lane);
        if (lane >= delta) before += below;
      }
      if (point < before && point >= before - m) told.store(2, static_cast<uint64_t>(at + lane));
      break;
    }
  }
  block_sync();
  return static_cast<int>(told.load(2));
}

QWEN3_DEVICE void adjust(float* logits, const SamplingRow& row, const TokenAdjustment& a) {
  float x = load(logits + a.id) + a.bias;
  if (a.count >= 0) {
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    if (a.count > 0) x -= row.frequency_penalty * static_cast<float>(a.count) + row.presence_penalty;
  }
  store(logits + a.id, a.banned ? bits_as_f32(0xff800000u) : x);
}

// `input`: a token that was generated once more than the adjustments know, or -1.
QWEN3_DEVICE void adjust_all(float* logits, const SamplingRow& s, const TokenAdjustment* adjustments, int input) {
  int found = 0;
  for (int i = s.adjustments_begin + thread_index().x; i < s.adjustments_end; i += kThreads) {
    TokenAdjustment a = load(adjustments + i);
    if (a.id == input) found = 1, a.count = (a.count > 0 ? a.count : 0) + 1;
    adjust(logits, s, a);
  }
  if (input < 0) return;
  if (block_sum64(static_cast<uint64_t>(found)) == 0 && thread_index().x == 0) adjust(logits, s, {input, 0, 1, 0});
}

// log softmax of the raw row: its largest value and the logarithm of the sum of weights.
struct Normaliser {
  float largest, log_sum;
};
QWEN3_DEVICE Normaliser normalise(const float* logits, int vocab, float largest) {
  uint64_t sum = 0;
  for (int id = thread_index().x; id < vocab; id += kThreads) sum += to_mass(load(logits + id) - largest);
  return {largest, log_f32(static_cast<float>(block_sum64(sum)) / kOne)};
}

QWEN3_DEVICE float key_value(int32_t key) {
  return bits_as_f32(static_cast<uint32_t>(key ^ ((key >> 31) & 0x7fffffff)));
}

// Best token and whether every logit is finite.
QWEN3_DEVICE uint64_t find_best(const float* logits, int vocab) {
  uint64_t best = 0;
  for (int id = thread_index().x; id < vocab; id += kThreads) {
    const uint64_t x = (uint64_t{1} << kRankBits) - 1 - rank_of(order_key(load(logits + id)), id);
    if (x > best) best = x;
  }
  return (uint64_t{1} << kRankBits) - 1 - block_best(best);
}
QWEN3_DEVICE int32_t key_of(uint64_t rank) {
  return static_cast<int32_t>(~static_cast<uint32_t>(rank >> 24) ^ 0x80000000u);
}

QWEN3_DEVICE int draw(Row& row, const SamplingRow& s) {
  // Tokens without weight cannot be kept: counting those that have some gives the same cut.
  uint64_t n = 0;
  for (int id = thread_index().x; id < row.vocab; id += kThreads) n += row.kept(id) > 0 ? 1 : 0;
  n = block_sum64(n);
  if (n == 0) return -1;
  if (s.top_k > 0 && static_cast<uint64_t>(s.top_k) < n)
    row.last = find_boundary(row, static_cast<uint64_t>(s.top_k), true);
  if (s.top_p < uint64_t{1} << 32) {
    const uint64_t total = block_sum64(kept_mass(row, thread_index().x, row.vocab, kThreads));
    const uint64_t target = multiply_high(total, s.top_p << 32);  // floor(total * top_p / 2^32)
    row.last = find_boundary(row, target > 0 ? target : 1, false);
  }
  row.min_mass = s.min_mass;
  const uint64_t total = block_sum64(kept_mass(row, thread_index().x, row.vocab, kThreads));
  const Philox4 words = random_words(s.seed, static_cast<uint32_t>(s.choice), s.position);
  return find_point(row, multiply_high(words.v[0] | static_cast<uint64_t>(words.v[1]) << 32, total));
}

QWEN3_KERNEL(kThreads)
sample_kernel(float* all_logits, int vocab, const SamplingRow* rows, const TokenAdjustment* adjustments,
              const uint32_t* mask, int32_t* ids, float* log_probabilities, const int32_t* inputs) {
  const int64_t r = block_index().x;
  const int thread = thread_index().x;
  float* logits = all_logits + r * vocab;
  grid_dependency_launch();
  grid_dependency_wait();
  const SamplingRow s = load(rows + r);
  if (s.temperature < 0) return;
  uint64_t broken = 0;
  for (int id = thread; id < vocab; id += kThreads) {
    broken += (f32_as_bits(load(logits + id)) & 0x7f800000u) == 0x7f800000u ? 1 : 0;
  }
  if (block_sum64(broken) > 0) {
    if (thread == 0) store(ids + r, -1);
    return;
  }
  Normaliser raw{0, 0};
  // Raw values of adjusted tokens are gone afterwards: the drawn one's adjustment is looked up to undo nothing but
  // this.
  const auto saved = shared_memory<float>(kBytes);  // [adjustments of the row]
  if (log_probabilities) {
    raw = normalise(logits, vocab, key_value(key_of(find_best(logits, vocab))));
    for (int i = s.adjustments_begin + thread; i < s.adjustments_end; i += kThreads) {
      saved.store(i - s.adjustments_begin, load(logits + load(adjustments + i).id));
    }
    block_sync();
  }
  adjust_all(logits, s, adjustments, inputs && s.input_row >= 0 ? load(inputs + s.input_row) : -1);
  if (mask && s.masked) {
    block_sync();  // an adjustment by another thread must not undo the mask
    const int words = (vocab + 31) / 32;
    for (int id = thread; id < vocab; id += kThreads) {
      if (!(load(mask + r * words + id / 32) >> (id % 32) & 1u)) store(logits + id, bits_as_f32(0xff800000u));
    }
  }
  thread_fence();
  block_sync();
  const uint64_t best = find_best(logits, vocab);
  int id = static_cast<int>(best & 0xffffff);
  const float largest = key_value(key_of(best));
  // Where every token is banned there are no weights to draw by: differences of infinities are no numbers.
  if (s.temperature > 0 && f32_as_bits(largest) != 0xff800000u) {
    Row row{logits, vocab, largest, s.temperature, ~uint64_t{0}, 1};
    const int drawn = draw(row, s);
    if (drawn >= 0) id = drawn;
  }
  if (thread != 0) return;
  store(ids + r, id);
  if (!log_probabilities) return;
  float value = load(logits + id);
  for (int i = s.adjustments_begin; i < s.adjustments_end; ++i) {
    if (load(adjustments + i).id == id) value = saved.load(i - s.adjustments_begin);
  }
  store(log_probabilities + r, (value - raw.largest) - raw.log_sum);
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

void sample(Stream stream, float* logits, int n_rows, int vocab, const SamplingRow* rows,
            const TokenAdjustment* adjustments, const uint32_t* mask, int32_t* ids, float* log_probabilities,
            const int32_t* inputs) {
  // Raw logits of up to 8,192 adjusted tokens a row.
  const int saved = log_probabilities ? 8192 * 4 : 0;
  launch(stream, "sample", sample_kernel, {{n_rows, 1, 1}, {kThreads, 1, 1}, kBytes + saved, true}, logits, vocab, rows,
         adjustments, mask, ids, log_probabilities, inputs);
}

}  // namespace qwen3::cuda
