// The device's sampler draws the tokens that the CPU's draws, for the same logits and seeds: every parameter, ties,
// penalties, bans, masks; and the same log-probabilities.

#include <map>
#include <memory>
#include <set>

#include "cuda/sampling.h"
#include "cuda_testing.h"
#include "engine/sampler.h"

using namespace qwen3;
using namespace qwen3::cuda;
using namespace qwen3::testing;
using emulate::DeviceArray;

namespace {

struct Case {
  SamplingParams params;
  std::vector<int32_t> prompt, generated, banned;
  std::vector<uint32_t> mask;  // empty: none
  uint64_t position;
};

Case random_case(Random& random, int vocab) {
  Case c;
  SamplingParams& p = c.params;
  p.temperature = random.between(0, 5) == 0 ? 0.0f : random.uniform(0.05f, 2.5f);
  if (random.between(0, 9) == 0) p.temperature = random.uniform(50, 10000);
  if (random.between(0, 1)) p.top_k = static_cast<int32_t>(random.between(1, random.between(0, 3) ? 64 : 3000));
  if (random.between(0, 1)) p.top_p = random.uniform(0.01f, 0.999f);
  if (random.between(0, 3) == 0) p.top_p = 1e-6f;
  if (random.between(0, 2) == 0) p.min_p = random.uniform(0.0f, 0.5f);
  if (random.between(0, 1)) p.presence_penalty = random.normal(), p.frequency_penalty = random.normal();
  if (random.between(0, 1)) p.repetition_penalty = random.uniform(0.5f, 2.0f);
  p.seed = random.word(), p.choice = static_cast<int32_t>(random.between(0, 3));
  p.top_logprobs = static_cast<int32_t>(random.between(-1, kMostDeviceLogprobs));
  c.position = static_cast<uint64_t>(random.between(0, 100000));
  c.prompt = random.tokens(random.between(0, 10), vocab), c.generated = random.tokens(random.between(0, 20), vocab);
  std::set<int32_t> biased;
  for (int64_t n = random.between(0, 4); n > 0; --n) biased.insert(static_cast<int32_t>(random.between(0, vocab - 1)));
  for (const int32_t id : biased) p.logit_bias.emplace_back(id, random.normal() * 3);
  for (int64_t n = random.between(0, 3); n > 0; --n)
    c.banned.push_back(static_cast<int32_t>(random.between(0, vocab - 1)));
  if (random.between(0, 3) == 0) {
    c.mask.assign(static_cast<size_t>((vocab + 31) / 32), 0);
    for (int id = 0; id < vocab; id += static_cast<int>(random.between(1, 9)))
      c.mask[static_cast<size_t>(id / 32)] |= 1u << id % 32;
  }
  return c;
}

// Distinct values, many equal ones, or one that takes everything.
std::vector<float> random_logits(Random& random, int vocab) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  const int64_t kind = random.between(0, 2);
  for (float& x : logits) x = kind == 1 ? static_cast<float>(random.between(-3, 3)) : 4 * random.normal();
  if (kind == 2) logits[static_cast<size_t>(random.between(0, vocab - 1))] = 60;
  return logits;
}

std::vector<TokenAdjustment> adjustments_of(const Case& c) {
  std::map<int32_t, TokenAdjustment> all;
  const auto at = [&](int32_t id) -> TokenAdjustment& {
    return all.try_emplace(id, TokenAdjustment{id, 0, -1, 0}).first->second;
  };
  const bool active =
      c.params.presence_penalty != 0 || c.params.frequency_penalty != 0 || c.params.repetition_penalty != 1;
  if (c.params.repetition_penalty != 1) {
    for (const int32_t id : c.prompt) at(id).count = std::max(at(id).count, 0);
  }
  for (const int32_t id : c.generated) {
    if (active) at(id).count = std::max(at(id).count, 0) + 1;
  }
  for (const auto& [id, bias] : c.params.logit_bias) at(id).bias = bias;
  for (const int32_t id : c.banned) at(id).banned = 1;
  std::vector<TokenAdjustment> out;
  for (const auto& [id, a] : all) out.push_back(a);
  return out;
}

// Zero once, and what a launch leaves must do for the next one.
class Scratch {
 public:
  void* of(int rows, int vocab) {
    const size_t bytes = sampling_scratch_bytes(rows, vocab);
    memory_ = std::make_unique<DeviceArray<uint64_t>>((bytes + 7) / 8, "scratch");
    std::fill(memory_->begin(), memory_->end(), 0);
    return memory_->data();
  }

 private:
  std::unique_ptr<DeviceArray<uint64_t>> memory_;
};

void check_logprobs(const RowLogprobs& got, const TokenLogprob& want) {
  CHECK(got.chosen == want.logprob && static_cast<size_t>(got.n) == want.top.size());
  for (size_t i = 0; i < want.top.size(); ++i)
    CHECK(got.ids[i] == want.top[i].first && got.values[i] == want.top[i].second);
}

// Alternatives are found among what a row's blocks kept; logits that sample() overwrites are no use.
void test_gives_logprobs() {
  SamplingRow row = sampling_row(1, 1, 0, 0);
  row.logprobs = 1 + kMostDeviceLogprobs;
  CHECK(gives_logprobs(row, 151'936) && gives_logprobs(row, 200));
  row.adjustments_end = 1;
  CHECK(!gives_logprobs(row, 151'936));
  row.top_k = 20;
  CHECK(gives_logprobs(row, 151'936));
  row.top_k = 100;
  CHECK(!gives_logprobs(row, 151'936));
  row.temperature = 0;
  CHECK(gives_logprobs(row, 151'936));
  row.logprobs = 2 + kMostDeviceLogprobs;
  CHECK(!gives_logprobs(row, 151'936));
}

void test_batch(Random& random, int vocab, int rows) {
  DeviceArray<float> logits(static_cast<size_t>(rows) * vocab, "logits"), raw(logits.size());
  DeviceArray<RowLogprobs> logprobs(static_cast<size_t>(rows), "log-probabilities");
  DeviceArray<SamplingRow> plans(static_cast<size_t>(rows));
  DeviceArray<int32_t> ids(static_cast<size_t>(rows));
  const size_t words = static_cast<size_t>((vocab + 31) / 32);
  DeviceArray<uint32_t> mask(static_cast<size_t>(rows) * words);
  std::vector<TokenAdjustment> adjustments;
  std::vector<int32_t> want;
  std::vector<TokenLogprob> want_logprobs;
  Sampler sampler(vocab);
  for (int r = 0; r < rows; ++r) {
    const Case c = random_case(random, vocab);
    auto row = random_logits(random, vocab);
    std::copy(row.begin(), row.end(), logits.data() + static_cast<size_t>(r) * vocab);
    SamplingRow& plan = plans[static_cast<size_t>(r)];
    plan = sampling_row(c.params.temperature, c.params.top_p, c.params.top_k, c.params.min_p);
    plan.presence_penalty = c.params.presence_penalty, plan.frequency_penalty = c.params.frequency_penalty;
    plan.repetition_penalty = c.params.repetition_penalty;
    plan.seed = c.params.seed, plan.choice = c.params.choice, plan.position = c.position;
    plan.adjustments_begin = static_cast<int32_t>(adjustments.size());
    for (const TokenAdjustment& a : adjustments_of(c)) adjustments.push_back(a);
    plan.adjustments_end = static_cast<int32_t>(adjustments.size());
    plan.masked = !c.mask.empty(), plan.logprobs = c.params.top_logprobs + 1;
    std::vector<int32_t> banned = c.banned;
    if (plan.masked) {
      std::copy(c.mask.begin(), c.mask.end(), mask.data() + static_cast<size_t>(r) * words);
      for (int id = 0; id < vocab; ++id) {
        if (!(c.mask[static_cast<size_t>(id / 32)] >> id % 32 & 1u)) banned.push_back(id);
      }
    }
    TokenCounts counts(c.params, c.prompt);
    for (const int32_t id : c.generated) counts.add_generated(id);
    TokenLogprob logprob;
    want.push_back(sampler.sample(row.data(), c.params, counts, banned, c.position, &logprob));
    want_logprobs.push_back(logprob);
  }
  DeviceArray<TokenAdjustment> device_adjustments(adjustments.size() + 1);
  std::copy(adjustments.begin(), adjustments.end(), device_adjustments.begin());
  std::copy(logits.begin(), logits.end(), raw.begin());
  Scratch scratch;
  void* const memory = scratch.of(rows, vocab);
  // Twice, fewer rows the second time: the last rows keep what they were given the first time.
  for (const int n : {rows, (rows + 1) / 2}) {
    std::copy(raw.begin(), raw.end(), logits.begin());
    std::fill(ids.begin(), ids.begin() + n, -2);
    sample(nullptr, logits.data(), n, vocab, plans.data(), device_adjustments.data(), mask.data(), ids.data(), memory);
  }
  log_probabilities(nullptr, raw.data(), rows, vocab, plans.data(), ids.data(), logprobs.data(), memory);
#if defined(QWEN3_GPU_CHECK)
  cudaDeviceSynchronize();
#endif
  for (int r = 0; r < rows; ++r) {
    CHECK_MSG(ids[static_cast<size_t>(r)] == want[static_cast<size_t>(r)],
              "row " + std::to_string(r) + " of vocabulary " + std::to_string(vocab) + ": " +
                  std::to_string(ids[static_cast<size_t>(r)]) + " vs " + std::to_string(want[static_cast<size_t>(r)]));
    if (plans[static_cast<size_t>(r)].logprobs > 0)
      check_logprobs(logprobs[static_cast<size_t>(r)], want_logprobs[static_cast<size_t>(r)]);
  }
}

void test_broken_row() {
  DeviceArray<float> logits(64);
  DeviceArray<SamplingRow> plan(1);
  DeviceArray<int32_t> id(1);
  for (float& x : logits) x = 1;
  logits[7] = std::nanf("");
  plan[0] = sampling_row(1, 1, 0, 0);
  plan[0].adjustments_begin = plan[0].adjustments_end = 0;
  Scratch scratch;
  sample(nullptr, logits.data(), 1, 64, plan.data(), nullptr, nullptr, id.data(), scratch.of(1, 64));
  CHECK(id[0] == -1);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const int repeats = whole_suite(argc, argv) ? 20 : 2;
  test_gives_logprobs();
  uint64_t stream = 0;
  on_every_schedule(
      [&] {
        Random random(seed(), stream++);
        for (int i = 0; i < repeats; ++i) test_batch(random, static_cast<int>(random.between(2, 3000)), 6);
        // Several parts, with and without rows of whole 16 bytes.
        test_batch(random, static_cast<int>(random.between(4000, 20000)), 2);
        test_batch(random, static_cast<int>(random.between(1000, 5000)) * 4, 2);
        test_broken_row();
      },
      1);
  return run.finish();
}
