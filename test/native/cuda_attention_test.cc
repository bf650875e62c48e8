// QK-Norm with RoPE and the attention kernels on the host emulation against float64: ragged sequences in shuffled cache
// blocks whose unwritten slots are NaN, every group size, prefill and decode. Then the counts: FLOPs, sectors,
// conflicts.

#include <algorithm>
#include <numeric>
#include <set>

#include "cuda/kernels.h"
#include "cuda/schedule.h"
#include "cuda_testing.h"
#include "engine/prompt_lookup.h"

using namespace qwen3;
using namespace qwen3::cuda;
using namespace qwen3::testing;
using emulate::DeviceArray;

namespace {

static_assert(PromptLookup::kMaxDraft + 1 <= kMostDecodeRows);

const emulate::Counters& last() {
  return emulate::Session::current().launches.back();
}

struct SequencePlan {
  int rows, position;
};

// A step of several sequences, its cache filled with random keys and values where positions were written, NaN
// elsewhere.
struct Step {
  HeadShape heads;
  std::vector<SequencePlan> plans;
  int n_rows = 0, n_blocks = 0;
  std::vector<std::vector<int32_t>> tables;
  std::vector<StepSequence> sequences;
  std::unique_ptr<DeviceArray<Bf16>> keys, values, q, out;

  Step(Random& random, HeadShape h, std::vector<SequencePlan> p) : heads(h), plans(std::move(p)) {
    for (const SequencePlan& plan : plans) {
      tables.emplace_back((plan.position + plan.rows + 63) / 64);
      for (int32_t& block : tables.back()) block = n_blocks++;
      n_rows += plan.rows;
    }
    std::vector<int32_t> order(static_cast<size_t>(n_blocks));
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<size_t>(random.between(0, static_cast<int64_t>(i) - 1))]);
    for (auto& table : tables) {
      for (int32_t& block : table) block = order[static_cast<size_t>(block)];
    }
    int32_t row = 0;
    for (size_t i = 0; i < plans.size(); ++i) {
      sequences.push_back({row, plans[i].rows, plans[i].position, tables[i], 0});
      row += plans[i].rows;
    }
    const size_t pool = static_cast<size_t>(n_blocks) * heads.n_kv_heads * 64 * heads.head_dim;
    keys = std::make_unique<DeviceArray<Bf16>>(pool, "keys");
    values = std::make_unique<DeviceArray<Bf16>>(pool, "values");
    const size_t q_size = static_cast<size_t>(n_rows) * heads.n_q_heads * heads.head_dim;
    q = std::make_unique<DeviceArray<Bf16>>(q_size, "q");
    out = std::make_unique<DeviceArray<Bf16>>(q_size, "out");
    for (Bf16& x : *q) x = f32_to_bf16(random.normal());
    for (size_t s = 0; s < plans.size(); ++s) {
      for (int i = 0; i < plans[s].position + plans[s].rows; ++i) {
        for (int kv = 0; kv < heads.n_kv_heads; ++kv) {
          for (int d = 0; d < heads.head_dim; ++d) {
            (*keys)[at(s, i, kv) + d] = f32_to_bf16(random.normal());
            (*values)[at(s, i, kv) + d] = f32_to_bf16(random.normal());
          }
        }
      }
    }
  }
  size_t at(size_t sequence, int position, int kv_head) const {
    const size_t block = static_cast<size_t>(tables[sequence][position / 64]);
    return ((block * heads.n_kv_heads + kv_head) * 64 + position % 64) * heads.head_dim;
  }
  // softmax(q k^T / sqrt(d)) v of one row and head.
  std::vector<double> expected(size_t s, int token, int head) const {
    const int d = heads.head_dim, kv = head / (heads.n_q_heads / heads.n_kv_heads);
    const size_t row = static_cast<size_t>(sequences[s].row_begin + token);
    const Bf16* query = q->data() + (row * heads.n_q_heads + head) * d;
    const int n = plans[s].position + token + 1;
    std::vector<double> p(static_cast<size_t>(n)), sum(static_cast<size_t>(d));
    double largest = -1e300, total = 0;
    for (int i = 0; i < n; ++i) {
      double dot = 0;
      for (int j = 0; j < d; ++j) dot += double(bf16_to_f32(query[j])) * bf16_to_f32((*keys)[at(s, i, kv) + j]);
      p[i] = dot / std::sqrt(double(d));
      largest = std::max(largest, p[i]);
    }
    for (double& x : p) total += x = std::exp(x - largest);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < d; ++j) sum[j] += p[i] / total * bf16_to_f32((*values)[at(s, i, kv) + j]);
    }
    return sum;
  }
};

// The schedule in device memory, as the executable uploads it.
struct DeviceWork {
  int blocks;
  AttentionSchedule schedule;
  DeviceArray<AttentionSequence> sequences;
  DeviceArray<int32_t> table;
  DeviceArray<AttentionTile> prefill;
  DeviceArray<DecodeTile> decode;
  DeviceArray<float> partials;
  DeviceArray<int32_t> arrived, tasks;
  // blocks: persistent ones, that share the tiles of prefill on sm_90a.
  DeviceWork(const Step& step, bool one_class, int n_blocks = 1)
      : DeviceWork(step, schedule_attention(step.sequences, step.heads, one_class), n_blocks) {}
  DeviceWork(const Step& step, AttentionSchedule scheduled, int n_blocks)
      : blocks(n_blocks),
        schedule(shared(std::move(scheduled), step.heads, blocks)),
        sequences(schedule.sequences.size()),
        table(schedule.block_table.size()),
        prefill(schedule.prefill.size()),
        decode(schedule.decode.size()),
        partials(static_cast<size_t>(schedule.n_partials) * partial_elements(step.heads), "partials"),
        arrived(static_cast<size_t>(schedule.n_partials) * step.heads.n_kv_heads),
        tasks(schedule.tasks.size()) {
    std::copy(schedule.tasks.begin(), schedule.tasks.end(), tasks.begin());
    std::fill(arrived.begin(), arrived.end(), 0);
    std::copy(schedule.sequences.begin(), schedule.sequences.end(), sequences.begin());
    std::copy(schedule.block_table.begin(), schedule.block_table.end(), table.begin());
    std::copy(schedule.prefill.begin(), schedule.prefill.end(), prefill.begin());
    std::copy(schedule.decode.begin(), schedule.decode.end(), decode.begin());
  }
  AttentionWork prefill_work() const {
    return {sequences.data(), table.data(), prefill.data(), static_cast<int>(prefill.size()), tasks.data()};
  }
  DecodeWork decode_work() const { return {table.data(), decode.data(), static_cast<int>(decode.size())}; }
  static AttentionSchedule shared(AttentionSchedule schedule, const HeadShape& heads, int blocks) {
    share_prefill(heads, blocks, schedule);
    return schedule;
  }
};

// hopper: by wgmma on as many multiprocessors as `work` is dealt to; else by mma.sync.
void run_attention(const Step& step, const DeviceWork& work, bool hopper = false) {
  const KvLayer cache{step.keys->data(), step.values->data()};
  if (hopper) {
    attention_prefill_hopper(nullptr, step.q->data(), cache, step.n_blocks, work.prefill_work(), step.heads,
                             step.n_rows, work.blocks, step.out->data());
  } else {
    attention_prefill(nullptr, step.q->data(), cache, work.prefill_work(), step.heads, step.out->data());
  }
  attention_decode(nullptr, step.q->data(), cache, work.decode_work(), step.heads, work.partials.data(),
                   work.arrived.data(), step.out->data());
  CHECK(std::all_of(work.arrived.begin(), work.arrived.end(), [](int32_t n) { return n == 0; }));
}

void check_output(const Step& step, const std::string& what) {
  std::vector<double> got, want;
  const int d = step.heads.head_dim;
  for (size_t s = 0; s < step.plans.size(); ++s) {
    // Long sequences: first, last and some rows in between.
    const int stride = std::max(1, step.plans[s].rows / 12);
    for (int token = 0; token < step.plans[s].rows; token += (token + stride >= step.plans[s].rows ? 1 : stride)) {
      for (int head = 0; head < step.heads.n_q_heads; ++head) {
        const auto expected = step.expected(s, token, head);
        want.insert(want.end(), expected.begin(), expected.end());
        const size_t row = static_cast<size_t>(step.sequences[s].row_begin + token);
        for (int j = 0; j < d; ++j)
          got.push_back(bf16_to_f32((*step.out)[(row * step.heads.n_q_heads + head) * d + j]));
      }
    }
  }
  // Weights and results are bf16: 2^-9 / sqrt(3) each and a little.
  const double error = relative_error(got.data(), want.data(), want.size());
  CHECK_MSG(error < 4e-3, what + ": " + std::to_string(error));
}

void test_attention(Random& random) {
  constexpr int kDims[] = {32, 64, 128};
  constexpr int kGroups[] = {1, 2, 3, 4, 5, 7, 8, 16};
  const int kv_heads = static_cast<int>(random.between(1, 2));
  const HeadShape heads{kGroups[random.between(0, 7)] * kv_heads, kv_heads, kDims[random.between(0, 2)]};
  std::vector<SequencePlan> plans;
  for (int64_t n = random.between(1, 4); n > 0; --n) {
    const bool decode = random.between(0, 1);
    plans.push_back({decode ? 1 : static_cast<int>(random.between(2, 90)),
                     static_cast<int>(random.between(0, decode ? 1300 : 200))});
  }
  const Step step(random, heads, plans);
  const DeviceWork work(step, random.between(0, 4) == 0);
  run_attention(step, work);
  check_output(step, "attention, head_dim " + std::to_string(heads.head_dim) + ", group " +
                         std::to_string(heads.n_q_heads / heads.n_kv_heads));
}

// The same shapes on the path of sm_90a: chunks that begin and end anywhere in a block or a tile of 128 keys, more
// tiles than blocks, flat and steep softmaxes.
void test_hopper_attention(Random& random) {
  constexpr int kGroups[] = {1, 2, 3, 4, 5, 7, 8, 16};
  const int kv_heads = static_cast<int>(random.between(1, 2));
  const HeadShape heads{kGroups[random.between(0, 7)] * kv_heads, kv_heads, 128};
  CHECK(prefill_on_hopper(heads) && !prefill_on_hopper({34, 2, 128}) && !prefill_on_hopper({4, 2, 64}));
  std::vector<SequencePlan> plans;
  for (int64_t n = random.between(1, 2); n > 0; --n) {
    plans.push_back({static_cast<int>(random.between(1, 50)), static_cast<int>(random.between(0, 300))});
  }
  const Step step(random, heads, plans);
  const float spread = random.between(0, 1) ? 1.0f : 8.0f;
  for (Bf16& x : *step.q) x = f32_to_bf16(bf16_to_f32(x) * spread);
  run_attention(step, DeviceWork(step, true, static_cast<int>(random.between(1, 5))), true);
  check_output(step, "attention on sm_90a, group " + std::to_string(heads.n_q_heads / heads.n_kv_heads));
}

// A row's bits do not depend on what else is in the step.
void test_alone(Random& random, bool hopper) {
  const HeadShape heads{4, 2, hopper ? 128 : 64};
  const Step step(random, heads, {{1, 700}, {1, 63}, {33, 100}});
  run_attention(step, DeviceWork(step, hopper, 3), hopper);
  std::vector<Bf16> together(step.out->begin(), step.out->end());
  for (size_t s = 0; s < 3; ++s) {
    Step alone(random, heads, {});
    alone.sequences = {step.sequences[s]};
    const DeviceWork work(alone, hopper);
    std::fill(step.out->begin(), step.out->end(), Bf16{0x7fc0});
    run_attention(step, work, hopper);
    const size_t width = static_cast<size_t>(heads.n_q_heads) * heads.head_dim,
                 begin = static_cast<size_t>(step.sequences[s].row_begin) * width,
                 n = static_cast<size_t>(step.plans[s].rows) * width;
    CHECK(std::equal(together.begin() + static_cast<std::ptrdiff_t>(begin),
                     together.begin() + static_cast<std::ptrdiff_t>(begin + n), step.out->begin() + begin));
  }
}

// A sequence from `position` on behind the kernel that appends the keys and values of its rows: what that writes is
// waited for, what is older is not. The cache holds NaN where they will be. The last `decoded` rows decode (drafts);
// the others, if any, are prefilled in the same step.
void test_behind_append(Random& random, const HeadShape& heads, int rows, int position, int decoded) {
  Step step(random, heads, {{rows, position}});
  step.sequences[0].n_rows -= decoded;
  const int first = rows - decoded;
  step.sequences.push_back({first, decoded, position + first, step.tables[0], 0, true});
  if (first == 0) step.sequences.erase(step.sequences.begin());
  const int d = heads.head_dim, width = (heads.n_q_heads + 2 * heads.n_kv_heads) * d, half = d / 2;
  const auto n = static_cast<size_t>(rows);
  DeviceArray<float> qkv(n * static_cast<size_t>(width)), q_norm(static_cast<size_t>(d)),
      k_norm(static_cast<size_t>(d)), cos(n * static_cast<size_t>(half)), sin(n * static_cast<size_t>(half));
  DeviceArray<int32_t> positions(n), slots(n), ropes(n);
  for (float& x : qkv) x = random.normal();
  for (int i = 0; i < d; ++i) q_norm[i] = 1 + 0.1f * random.normal(), k_norm[i] = 1 + 0.1f * random.normal();
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < half; ++i)
      cos[r * half + i] = std::cos(float(r + i)), sin[r * half + i] = std::sin(float(r + i));
    const int at = position + r;
    positions[r] = at, slots[r] = step.tables[0][static_cast<size_t>(at / 64)] * 64 + at % 64, ropes[r] = 0;
  }
  const auto forget_new = [&] {
    for (int i = 0; i < rows * heads.n_kv_heads; ++i) {
      const size_t at = step.at(0, position + i / heads.n_kv_heads, i % heads.n_kv_heads);
      std::fill_n(step.keys->begin() + at, d, Bf16{0x7fc0});
      std::fill_n(step.values->begin() + at, d, Bf16{0x7fc0});
    }
  };
  forget_new();
  QkNormRope raw{qkv.data(),     q_norm.data(),
                 k_norm.data(),  cos.data(),
                 sin.data(),     {positions.data(), slots.data(), ropes.data()},
                 heads,          1e-6f,
                 step.q->data(), {step.keys->data(), step.values->data()}};
  qk_norm_rope_append(nullptr, raw, rows);
  AttentionSchedule schedule;
  schedule_attention(step.sequences, heads, schedule);
  CHECK(schedule.prefill.empty() == (first == 0));
  const DeviceWork work(step, std::move(schedule), 1);
  run_attention(step, work);
  const std::string what = std::to_string(rows) + " rows, position " + std::to_string(position);
  check_output(step, "attention behind append, " + what);
  if (first > 0) return;
  // Straight from the projection: the same bits, in the cache too.
  const std::vector<Bf16> out(step.out->begin(), step.out->end()), keys(step.keys->begin(), step.keys->end()),
      values(step.values->begin(), step.values->end());
  std::fill(step.out->begin(), step.out->end(), Bf16{0x7fc0});
  forget_new();
  raw.q_out = nullptr, raw.rows = {};
  attention_decode(nullptr, raw, work.decode_work(), work.partials.data(), work.arrived.data(), step.out->data());
  CHECK_MSG(std::equal(out.begin(), out.end(), step.out->begin()), "raw attention, " + what);
  CHECK_MSG(std::equal(keys.begin(), keys.end(), step.keys->begin()), "appended keys, " + what);
  CHECK_MSG(std::equal(values.begin(), values.end(), step.values->begin()), "appended values, " + what);
  CHECK(std::all_of(work.arrived.begin(), work.arrived.end(), [](int32_t a) { return a == 0; }));
}

// Blocks of 64 keys, taken by two warps in turn, splits of 256: the step's rows at the beginning, the end and in the
// middle of either warp's first block and of a later one, and across the border of two blocks, warps or splits.
void test_behind_append(Random& random) {
  for (const int position : {0, 63, 64, 100, 200, 256 + 64 + 20})
    test_behind_append(random, {4, 2, 128}, 1, position, 1);
  for (const int position : {61, 126, 254, 256 + 62, 256 + 126}) test_behind_append(random, {2, 1, 64}, 4, position, 4);
  for (const int position : {63, 192 + 30}) test_behind_append(random, {1, 1, 32}, kMostDecodeRows, position, 65);
  // Drafts behind a prompt of this step, whose keys are nobody's old ones.
  for (const int prompt : {20, 70, 200}) test_behind_append(random, {4, 2, 64}, prompt + 3, prompt / 2, 3);
  constexpr int kDims[] = {32, 64, 128};
  const HeadShape heads{static_cast<int>(random.between(1, 16)), 1, kDims[random.between(0, 2)]};
  const int rows = static_cast<int>(random.between(1, 8));
  test_behind_append(random, heads, rows, static_cast<int>(random.between(0, 600)),
                     static_cast<int>(random.between(1, rows)));
}

// The most splits that a row has, over keys of few numbers, so that the float64 reference is cheap. A launch whose
// blocks share the tiles (as in a graph), on the counters that the first one left, gives the same bits.
void test_many_splits(Random& random, int keys) {
  const HeadShape heads{4, 2, 32};
  const Step step(random, heads, {{1, keys - 1}, {1, 8 * 512 + 100}, {1, 700}});
  DeviceWork work(step, false);
  run_attention(step, work);
  check_output(step, std::to_string(keys) + " keys");
  const std::vector<Bf16> first(step.out->begin(), step.out->end());
  DeviceArray<int32_t> count(1);
  count[0] = static_cast<int32_t>(work.decode.size());
  DecodeWork shared = work.decode_work();
  shared.n_tiles = 3, shared.count = count.data();
  std::fill(step.out->begin(), step.out->end(), Bf16{0x7fc0});
  attention_decode(nullptr, step.q->data(), {step.keys->data(), step.values->data()}, shared, heads,
                   work.partials.data(), work.arrived.data(), step.out->data());
  CHECK(std::equal(first.begin(), first.end(), step.out->begin()));
}

// Prefill: FLOPs at most 1.15 times the causal minimum, sectors at most 1.1 times Q + O + visible K and V per tile of
// 128 rows, no bank conflicts. QWEN3_LONG takes the 2,048 tokens of the bar; 1,024 are a harder case, the edge weighs
// more.
void test_prefill_counts(Random& random, int tokens, bool hopper) {
  const HeadShape heads{4, 1, 128};
  const Step step(random, heads, {{tokens, 0}});
  const DeviceWork work(step, false, 3);
  run_attention(step, work, hopper);
  const auto& c = last();
  const double minimum = 4.0 * heads.n_q_heads * heads.head_dim * (double(tokens) * (tokens + 1) / 2);
  std::printf("%s %d: FLOPs %.3f of the minimum, %lld conflicts\n", c.kernel.c_str(), tokens,
              double(c.matrix_flops) / minimum, static_cast<long long>(c.bank_conflicts));
  CHECK(double(c.matrix_flops) <= 1.15 * minimum);
  CHECK(c.bank_conflicts == 0);
  double sectors = 2.0 * tokens * heads.n_q_heads * heads.head_dim * 2 / 32;  // Q and O
  const int per_tile = prefill_tile_tokens(heads);
  for (int t = 0; t < tokens; t += per_tile) sectors += 2.0 * std::min(tokens, t + per_tile) * heads.head_dim * 2 / 32;
  const double got = double(c.global_read_sectors + c.global_written_sectors);
  std::printf("%s %d: sectors %.3f of the minimum\n", c.kernel.c_str(), tokens, got / sectors);
  CHECK(got <= 1.1 * sectors);
}

// A row has at most kMostSplits splits, and memory for them.
void test_splits() {
  int32_t most = 0, wrong = 0;
  for (int32_t n = 1; n < 300'000; ++n) {
    const int32_t size = split_keys(n), splits = (n + size - 1) / size;
    most = std::max(most, splits);
    wrong += splits > kMostSplits || size % 64 != 0 || most_splits(n) != most;
  }
  CHECK(wrong == 0);
}

std::vector<StepSequence> prompts(const std::vector<int32_t>& lengths, const std::vector<int32_t>& table) {
  std::vector<StepSequence> out;
  int32_t row = 0;
  for (const int32_t n : lengths) {
    out.push_back({row, n, 0, {table.data(), static_cast<size_t>((n + 63) / 64)}, 0});
    row += n;
  }
  return out;
}

// The persistent blocks of prefill have every tile of every KV head once, and none has much more than its share.
void test_shares(Random& random) {
  const int kv_heads = static_cast<int>(random.between(1, 8));
  const HeadShape heads{kv_heads * 4, kv_heads, 128};
  std::vector<int32_t> lengths;
  for (int64_t n = random.between(0, 20); n >= 0; --n)
    lengths.push_back(static_cast<int32_t>(random.between(1, random.between(0, 3) ? 500 : 9000)));
  const std::vector<int32_t> table(200);
  AttentionSchedule schedule = schedule_attention(prompts(lengths, table), heads, true);
  const int blocks = static_cast<int>(random.between(1, 140));
  share_prefill(heads, blocks, schedule);
  const auto n_tasks = schedule.prefill.size() * static_cast<size_t>(kv_heads);
  CHECK(schedule.tasks.size() == n_tasks + static_cast<size_t>(blocks) + 1);
  CHECK(schedule.tasks[0] == blocks + 1 && schedule.tasks[static_cast<size_t>(blocks)] == int(schedule.tasks.size()));
  std::vector<int> seen(n_tasks);
  int64_t total = 0, most = 0, longest = 0;
  for (size_t b = 0; b < static_cast<size_t>(blocks); ++b) {
    int64_t load = 0;
    for (int32_t i = schedule.tasks[b]; i < schedule.tasks[b + 1]; ++i) {
      const auto task = static_cast<size_t>(schedule.tasks[static_cast<size_t>(i)]);
      ++seen[task];
      const int64_t cost = (schedule.prefill[task / static_cast<size_t>(kv_heads)].key_end + 127) / 128;
      load += cost, longest = std::max(longest, cost);
    }
    CHECK((load > 0) == (b < n_tasks));
    total += load, most = std::max(most, load);
  }
  CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  // Half a tile is counted beside each task's own.
  CHECK(most <= total / blocks + longest + 3 + static_cast<int64_t>(n_tasks) / (2 * blocks));
}

// How many times K and V come from memory through an L2 of 25 MB when persistent blocks take their tasks' tiles of 128
// keys in step, from the last one down.
double reads_of_memory(const AttentionSchedule& schedule, const std::vector<std::vector<int32_t>>& tasks,
                       int kv_heads) {
  constexpr size_t kLines = (25 << 20) / (2 * 128 * 128 * 2);
  const auto tiles_of = [](const AttentionTile& tile) { return (tile.key_end + 127) / 128; };
  std::vector<size_t> held, next(tasks.size());  // in the L2, the least recently used first; of each block
  std::vector<int32_t> left(tasks.size());
  std::set<size_t> lines;
  int64_t misses = 0;
  for (bool busy = true; busy;) {
    busy = false;
    for (size_t b = 0; b < tasks.size(); ++b) {
      if (next[b] == tasks[b].size()) continue;
      busy = true;
      const int32_t task = tasks[b][next[b]];
      const AttentionTile& tile = schedule.prefill[static_cast<size_t>(task / kv_heads)];
      if (left[b] == 0) left[b] = tiles_of(tile);
      const auto line = static_cast<size_t>((tile.sequence * kv_heads + task % kv_heads) * 1000 + --left[b]);
      const auto found = std::find(held.rbegin(), held.rend(), line);
      if (found == held.rend()) {
        ++misses, lines.insert(line);
        if (held.size() == kLines) held.erase(held.begin());
      } else {
        held.erase(std::next(found).base());
      }
      held.push_back(line);
      if (left[b] == 0) ++next[b];
    }
  }
  return double(misses) / double(lines.size());
}

// Prompts on 132 blocks: K and V come from memory little more than once. With the longest tiles of all sequences first,
// dealt forwards and backwards in turn, they come dozens of times.
void test_reuse(const std::vector<int32_t>& lengths) {
  constexpr int kBlocks = 132, kKvHeads = 8;
  const std::vector<int32_t> table(512);
  AttentionSchedule schedule = schedule_attention(prompts(lengths, table), {32, kKvHeads, 128}, true);
  share_prefill({32, kKvHeads, 128}, kBlocks, schedule);
  std::vector<std::vector<int32_t>> dealt(kBlocks), in_turn(kBlocks);
  for (size_t b = 0; b < kBlocks; ++b) {
    dealt[b].assign(schedule.tasks.begin() + schedule.tasks[b], schedule.tasks.begin() + schedule.tasks[b + 1]);
  }
  std::vector<int32_t> longest(schedule.prefill.size());
  std::iota(longest.begin(), longest.end(), 0);
  std::stable_sort(longest.begin(), longest.end(), [&](int32_t x, int32_t y) {
    return schedule.prefill[static_cast<size_t>(x)].key_end > schedule.prefill[static_cast<size_t>(y)].key_end;
  });
  for (int i = 0; i < static_cast<int>(longest.size()) * kKvHeads; ++i) {
    const int round = i / kBlocks, at = i % kBlocks;
    const int32_t tile = longest[static_cast<size_t>(i / kKvHeads)];
    in_turn[static_cast<size_t>(round % 2 ? kBlocks - 1 - at : at)].push_back(tile * kKvHeads + i % kKvHeads);
  }
  const double ours = reads_of_memory(schedule, dealt, kKvHeads), before = reads_of_memory(schedule, in_turn, kKvHeads);
  std::printf("prefill of %zu x %d: %.2f times K and V from memory; longest tiles first: %.1f\n", lengths.size(),
              lengths[0], ours, before);
  CHECK(ours <= 1.25 && before > 20);
}

// Decode: every K and V byte once per KV head, no bank conflicts.
void test_decode_counts(Random& random) {
  const HeadShape heads{8, 2, 128};
  const Step step(random, heads, {{1, 1023}, {1, 511}, {1, 127}});
  const DeviceWork work(step, false);
  attention_decode(nullptr, step.q->data(), {step.keys->data(), step.values->data()}, work.decode_work(), heads,
                   work.partials.data(), work.arrived.data(), step.out->data());
  const auto& c = last();
  const int64_t kv_sectors = int64_t{1024 + 512 + 128} * heads.n_kv_heads * heads.head_dim * 2 * 2 / 32;
  const int64_t splits = int64_t{4 + 2 + 1}, joined = int64_t{4 + 2} * heads.n_q_heads * (heads.head_dim + 8) * 4 / 32;
  // Read by both warps, in halves of sectors; the rest are tables.
  const int64_t q_sectors = splits * heads.n_q_heads * heads.head_dim * 2 / 32;
  std::printf("decode: sectors %.3f of K + V, %lld conflicts\n", double(c.global_read_sectors) / double(kv_sectors),
              static_cast<long long>(c.bank_conflicts));
  CHECK(c.global_read_sectors <= kv_sectors + 4 * q_sectors + joined + 240);
  CHECK(c.bank_conflicts == 0);
}

// --- QK-Norm, RoPE, append ---

void test_qk_norm_rope(Random& random) {
  constexpr int kDims[] = {32, 64, 128};
  const int kv_heads = static_cast<int>(random.between(1, 3));
  const HeadShape heads{kv_heads * static_cast<int>(random.between(1, 4)), kv_heads, kDims[random.between(0, 2)]};
  const int rows = static_cast<int>(random.between(1, 6)), d = heads.head_dim, n_blocks = 8;
  const int n_heads = heads.n_q_heads + 2 * kv_heads;
  DeviceArray<float> qkv(static_cast<size_t>(rows) * n_heads * d), q_norm(static_cast<size_t>(d)),
      k_norm(static_cast<size_t>(d));
  DeviceArray<float> cos(static_cast<size_t>(rows) * (d / 2)), sin(static_cast<size_t>(rows) * (d / 2));
  DeviceArray<int32_t> position(static_cast<size_t>(rows)), slot(static_cast<size_t>(rows)),
      table(static_cast<size_t>(rows));
  DeviceArray<double> inv_freq(static_cast<size_t>(d)), factor(2);
  DeviceArray<Bf16> q_out(static_cast<size_t>(rows) * heads.n_q_heads * d);
  const size_t pool = static_cast<size_t>(n_blocks) * kv_heads * 64 * d;
  DeviceArray<Bf16> keys(pool), values(pool);
  for (float& x : qkv) x = random.normal();
  for (float& x : q_norm) x = random.normal();
  for (float& x : k_norm) x = random.normal();
  for (int i = 0; i < d; ++i) inv_freq[i] = std::pow(i < d / 2 ? 1e-6 : 2e-6, 2.0 * (i % (d / 2)) / d);
  factor[0] = 1, factor[1] = 1.25;
  for (int r = 0; r < rows; ++r) {
    position[r] = static_cast<int32_t>(random.between(0, 200000));
    slot[r] = static_cast<int32_t>(random.between(0, 7) * 64 + r * 9);
    table[r] = static_cast<int32_t>(random.between(0, 1));
  }
  const RowMap map{position.data(), slot.data(), table.data()};
  DeviceArray<int32_t> given(static_cast<size_t>(rows)), tokens(static_cast<size_t>(rows));
  DeviceArray<Bf16> embedding(8);
  DeviceArray<float> embedded(static_cast<size_t>(rows) * 8);
  for (int32_t& t : given) t = 0;
  begin_step(nullptr,
             {given.data(), given.data(), map, inv_freq.data(), factor.data(), embedding.data(), 8, d, tokens.data(),
              cos.data(), sin.data(), embedded.data()},
             rows);
  qk_norm_rope_append(nullptr,
                      {qkv.data(),
                       q_norm.data(),
                       k_norm.data(),
                       cos.data(),
                       sin.data(),
                       map,
                       heads,
                       1e-6f,
                       q_out.data(),
                       {keys.data(), values.data()}},
                      rows);
  const auto& c = last();
  std::vector<double> got, want;
  for (int r = 0; r < rows; ++r) {
    for (int h = 0; h < n_heads; ++h) {
      const float* in = qkv.data() + (static_cast<size_t>(r) * n_heads + h) * d;
      const bool is_q = h < heads.n_q_heads, is_v = h >= heads.n_q_heads + kv_heads;
      const int kv = (h - heads.n_q_heads) % kv_heads;
      const size_t at = ((static_cast<size_t>(slot[r] / 64) * kv_heads + (is_q ? 0 : kv)) * 64 + slot[r] % 64) * d;
      const Bf16* out =
          is_q ? q_out.data() + (static_cast<size_t>(r) * heads.n_q_heads + h) * d : (is_v ? values : keys).data() + at;
      double squares = 0;
      for (int i = 0; i < d; ++i) squares += double(in[i]) * in[i];
      const double scale = 1 / std::sqrt(squares / d + 1e-6);
      const float* w = is_q ? q_norm.data() : k_norm.data();
      for (int i = 0; i < d; ++i) {
        const int j = i % (d / 2);
        const double angle = position[r] * inv_freq[table[r] * (d / 2) + j], f = factor[table[r]];
        const double a = in[j] * scale * w[j], b = in[j + d / 2] * scale * w[j + d / 2];
        const double rotated = i < d / 2 ? a * std::cos(angle) * f - b * std::sin(angle) * f
                                         : b * std::cos(angle) * f + a * std::sin(angle) * f;
        want.push_back(is_v ? in[i] : rotated);
        got.push_back(bf16_to_f32(out[i]));
      }
    }
  }
  const double error = relative_error(got.data(), want.data(), want.size());
  CHECK_MSG(error < 2.5e-3, std::to_string(error));
  // Every byte of qkv once, every result once.
  const int64_t sectors = int64_t{rows} * n_heads * d * 4 / 32;
  if (!kCounted) return;
  CHECK(c.global_written_bytes == int64_t{rows} * n_heads * d * 2);
  // Norms, angles and the rows' places beside them.
  const int64_t beside = int64_t{2 + rows} * d * 4 / 32 + 3 * (rows + 1);
  CHECK(c.distinct_sectors_read >= sectors && c.distinct_sectors_read <= sectors + beside);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const bool counts = counts_alone(argc, argv), whole = counts || whole_suite(argc, argv);
  uint64_t stream = 0;
  on_every_schedule([&] {
    if (counts) return;
    Random random(seed(), stream++);
    for (int i = 0; i < (whole ? 20 : 3); ++i) {
      test_attention(random);
      test_qk_norm_rope(random);
      if (has_hopper()) test_hopper_attention(random);
    }
    test_alone(random, false);
    if (has_hopper()) test_alone(random, true);
    test_behind_append(random);
    if (whole || stream % 2 == 0) test_many_splits(random, static_cast<int>(random.between(31 * 512, 33 * 512)));
  });
  test_splits();
  for (uint64_t i = 0; i < 20; ++i) {
    Random random(seed(), 2000 + i);
    test_shares(random);
  }
  test_reuse(std::vector<int32_t>(8, 4096));
  if (whole) test_reuse({32768});
  if (!kCounted) return run.finish();
  Random random(seed(), 1000);
  without_faults([&] { test_prefill_counts(random, whole ? 2048 : 512, false); });
  without_faults([&] { test_prefill_counts(random, whole ? 2048 : 1024, true); });
  without_faults([&] { test_decode_counts(random); });
  return run.finish();
}
