// A device that draws tokens itself lets the engine run ahead; nothing that a request says may depend on it. Scripted
// texts whose every token depends on all before them, on a backend that queues its steps and runs them as late as it
// may: a token that is taken too early, a dropped one that counts, a slot that is not written over, a penalty that
// misses the token in flight gives another text. Random schedules of requests with everything that ends, cuts, cancels
// or pushes out a sequence, against the same requests with the host's sampler; 150 of them, 3,000 in the long suite.

#include <algorithm>
#include <deque>
#include <string_view>

#include "engine_harness.h"
#include "scripted_backend.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr int32_t kVocab = 128;

// Draws with the CPU sampler, from what a device is told.
int32_t draw(Sampler& sampler, std::vector<float> logits, const RowSampling& row, std::vector<LogitAdjustment> changes,
             int32_t input) {
  if (row.counts_input) {
    auto known = std::find_if(changes.begin(), changes.end(), [&](const auto& a) { return a.id == input; });
    if (known == changes.end()) known = changes.insert(known, LogitAdjustment{input, 0, 0, false});
    known->count = std::max(known->count, 0) + 1;
  }
  std::vector<int32_t> banned;
  for (const LogitAdjustment& a : changes) {
    float& x = logits[static_cast<size_t>(a.id)];
    x += a.bias;
    if (a.count >= 0) x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    if (a.count > 0) x -= row.frequency_penalty * static_cast<float>(a.count) + row.presence_penalty;
    if (a.banned) banned.push_back(a.id);
  }
  SamplingParams p;
  p.temperature = row.temperature, p.top_p = row.top_p, p.top_k = row.top_k, p.min_p = row.min_p;
  p.seed = row.seed, p.choice = row.choice;
  return sampler.sample(logits.data(), p, TokenCounts(p, {}), banned, row.position, nullptr);
}

struct Device {
  int64_t queued = 0, ahead = 0;
  std::function<void(int64_t step)> before_enqueue, before_collect;  // may throw
};

class DrawingExecutable final : public Executable {
 public:
  DrawingExecutable(std::unique_ptr<Executable> inner, Device& device)
      : inner_(std::move(inner)), device_(device), sampler_(kVocab) {}
  void run(const StepBatch& batch, KvCache& cache, float* logits) override {
    CHECK(steps_.empty());
    inner_->run(batch, cache, logits);
  }
  void observe(Observer) override {}
  bool samples() const override { return true; }
  // As CUDA: where what is drawn from can be told apart from what is reported.
  bool gives_logprobs(const RowSampling& row) const override {
    const bool adjusted = row.counts_input || !row.adjustments.empty();
    return row.top_logprobs <= 3 && (!adjusted || row.temperature == 0 || (row.top_k > 0 && row.top_k < 10));
  }

  void enqueue(const StepBatch& batch, KvCache& cache, std::span<const RowSampling> sampling) override {
    CHECK(steps_.size() < 2 && sampling.size() == batch.logits_rows.size());
    ++device_.queued, device_.ahead += steps_.empty() ? 0 : 1;
    try {
      if (device_.before_enqueue) device_.before_enqueue(device_.queued);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOutOfMemory) steps_.clear();
      throw;
    }
    Step& step = steps_.emplace_back();
    step.tokens.assign(batch.tokens.begin(), batch.tokens.end());
    step.rows.assign(batch.logits_rows.begin(), batch.logits_rows.end());
    step.sampling.assign(sampling.begin(), sampling.end());
    for (const RowSampling& row : sampling) {
      CHECK(row.top_logprobs < 0 || gives_logprobs(row));
      step.changes.emplace_back(row.adjustments.begin(), row.adjustments.end());
    }
    for (const StepSequence& s : batch.sequences) step.tables.emplace_back(s.block_table.begin(), s.block_table.end());
    step.sequences.assign(batch.sequences.begin(), batch.sequences.end());
    for (size_t i = 0; i < step.sequences.size(); ++i) step.sequences[i].block_table = step.tables[i];
    step.cache = &cache;
  }

  void collect(std::span<int32_t> tokens, std::span<RowLogprobs> logprobs) override {
    CHECK(!steps_.empty());
    try {
      if (device_.before_collect) device_.before_collect(device_.queued);
    } catch (...) {
      steps_.clear();
      throw;
    }
    execute(steps_.front());
    CHECK(tokens.size() == drawn_.size());
    std::copy(drawn_.begin(), drawn_.end(), tokens.begin());
    const bool asked =
        std::ranges::any_of(steps_.front().sampling, [](const auto& row) { return row.top_logprobs >= 0; });
    CHECK(logprobs.size() == (asked ? tokens.size() : 0));
    std::copy(logprobs_.begin(), logprobs_.begin() + static_cast<std::ptrdiff_t>(logprobs.size()), logprobs.begin());
    steps_.pop_front();
  }

 private:
  struct Step {
    std::vector<int32_t> tokens, rows;
    std::vector<RowSampling> sampling;
    std::vector<std::vector<LogitAdjustment>> changes;
    std::deque<std::vector<int32_t>> tables;
    std::vector<StepSequence> sequences;
    KvCache* cache = nullptr;
  };

  void execute(Step& step) {
    for (int32_t& token : step.tokens) {
      if (token < 0) token = drawn_.at(static_cast<size_t>(-1 - token));
    }
    std::vector<float> logits(step.rows.size() * kVocab);
    inner_->run({step.tokens, step.sequences, step.rows}, *step.cache, logits.data());
    drawn_.clear(), logprobs_.assign(step.rows.size(), {});
    for (size_t i = 0; i < step.rows.size(); ++i) {
      const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(i) * kVocab;
      drawn_.push_back(draw(sampler_, {begin, begin + kVocab}, step.sampling[i], step.changes[i],
                            step.tokens[static_cast<size_t>(step.rows[i])]));
      const int32_t top = step.sampling[i].top_logprobs;
      if (top < 0) continue;
      const TokenLogprob found = sampler_.logprob(&*begin, drawn_.back(), top);
      RowLogprobs& to = logprobs_[i];
      to.chosen = found.logprob, to.n = static_cast<int32_t>(found.top.size());
      for (size_t j = 0; j < found.top.size(); ++j) to.ids[j] = found.top[j].first, to.values[j] = found.top[j].second;
    }
  }

  std::unique_ptr<Executable> inner_;
  Device& device_;
  Sampler sampler_;
  std::deque<Step> steps_;
  std::vector<int32_t> drawn_;
  std::vector<RowLogprobs> logprobs_;
};

// The scripted cache with the order of a device: what is queued is not waited for, so blocks are copied and poisoned
// only while nothing of them is in flight, which the engine must see to, or, on CUDA, the stream.
class DrawingBackend final : public Backend {
 public:
  ScriptedBackend inner;
  Device device;
  std::string_view name() const override { return "drawing"; }
  int64_t packed_bytes(WeightUse, WeightFormat, int64_t, int64_t) const override { return 1; }
  std::unique_ptr<Weight> pack(WeightUse use, WeightFormat format, std::span<const MatrixSource> sources) override {
    return inner.pack(use, format, sources);
  }
  int64_t kv_block_bytes(const Program& program, DType dtype) const override {
    return inner.kv_block_bytes(program, dtype);
  }
  std::unique_ptr<KvCache> create_kv_cache(const Program& program, DType dtype, int64_t n_blocks) override {
    return inner.create_kv_cache(program, dtype, n_blocks);
  }
  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      std::vector<std::shared_ptr<const Weight>> weights, int64_t max_rows,
                                      int64_t positions) override {
    return std::make_unique<DrawingExecutable>(
        inner.compile(std::move(program), std::move(weights), max_rows, positions), device);
  }
};

uint64_t hash_of(const std::vector<int32_t>& tokens) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3u;
  return hash ^ (hash >> 31);
}

// A character is a token: < > think tags, $ end, _ newline; several are likely.
void script(Script& script) {
  script.next = [](const std::vector<int32_t>& tokens, int32_t) {
    constexpr std::string_view kText = "abcdefghijklmnop_. <>$";
    return static_cast<int32_t>(kText[hash_of(tokens) % kText.size()]);
  };
  script.after_row = [](int64_t, const std::vector<int32_t>& tokens, float* row) {
    const uint64_t hash = hash_of(tokens);
    for (int32_t i = 0; i < kVocab; ++i) row[i] = row[i] > 0 ? 5 : 0.01f * static_cast<float>((hash >> (i % 32)) % 100);
    row['a' + static_cast<int32_t>((hash >> 40) % 12)] += 4.5f;
  };
}

struct World {
  std::shared_ptr<ScriptedBackend> host = std::make_shared<ScriptedBackend>();
  std::shared_ptr<DrawingBackend> device = std::make_shared<DrawingBackend>();
  std::shared_ptr<const Model> model;
  EngineOptions options;
  World() {
    ModelConfig config = tiny_config();
    config.vocab = kVocab, config.native_window = 4096;
    model = make_tiny_model(config, 1, *host);
    script(host->script), script(device->inner.script);
    options.context_length = 256;
    options.kv_cache_bytes = 64 * kBlockSize * 4;
    options.token_offsets.push_back(0);
    for (int c = 0; c < kVocab; ++c) {
      if (std::string_view("<>$").find(static_cast<char>(c)) == std::string_view::npos)
        options.token_bytes += c == '_' ? '\n' : static_cast<char>(c);
      options.token_offsets.push_back(static_cast<uint32_t>(options.token_bytes.size()));
    }
  }
  Collected plainly(Request r) const {
    EngineOptions plain = options;
    plain.prefix_cache = false;
    r.speculation = {};
    Driver driver(model, host, plain);
    driver.submit(0, std::move(r));
    driver.run();
    return driver.results[0];
  }
};

Request random_request(Random& random) {
  Request r;
  const auto n = random.between(1, 70);
  for (int64_t i = 0; i < n; ++i) r.prompt.push_back(static_cast<int32_t>(random.between('a', 'e')));
  r.max_tokens = random.between(1, 60);
  SamplingParams& p = r.sampling;
  p.temperature = random.between(0, 3) == 0 ? 0 : random.uniform(0.3f, 1.5f);
  p.top_p = random.between(0, 1) ? 1 : random.uniform(0.5f, 1);
  p.top_k = random.between(0, 1) ? 0 : static_cast<int32_t>(random.between(1, 20));
  p.min_p = random.between(0, 2) ? 0 : random.uniform(0, 0.3f);
  p.seed = random.word();
  if (random.between(0, 2) == 0) p.presence_penalty = random.uniform(-1, 2), p.frequency_penalty = random.uniform(0, 1);
  if (random.between(0, 3) == 0) p.repetition_penalty = random.uniform(0.7f, 1.6f);
  if (random.between(0, 3) == 0) p.logit_bias = {{'c', 2}, {'d', -30}};
  if (random.between(0, 2) == 0) p.top_logprobs = static_cast<int32_t>(random.between(0, 4));  // 4: for the host
  r.eos = {'$'};
  if (random.between(0, 2) == 0) r.stop = {"ab", "f.g"};
  if (random.between(0, 1) == 0) {
    r.segments.can_think = true, r.segments.think_open = '<', r.segments.think_close = '>';
    r.segments.starts_in_think = random.between(0, 1) == 0;
    if (random.between(0, 1) == 0) r.segments.budget = random.between(0, 30);
    if (random.between(0, 1) == 0) r.segments.wrap_up = {'_', '>', '_'};
    r.segments.answer_reserve = random.between(-1, 8);
  }
  if (random.between(0, 3) == 0) r.speculation.max_draft = 4;
  return r;
}

std::string difference_of_tokens(const Collected& got, const Collected& want) {
  const bool whole = got.last.finish_reason != FinishReason::kAborted;
  const size_t n = std::min(got.ids.size(), want.ids.size());
  for (size_t i = 0; i < n; ++i) {
    if (got.ids[i] != want.ids[i] || got.segments[i] != want.segments[i] || got.forced[i] != want.forced[i])
      return "token " + std::to_string(i);
  }
  for (size_t i = 0; i < std::min(n, got.logprobs.size()); ++i) {
    if (got.logprobs[i].logprob != want.logprobs.at(i).logprob || got.logprobs[i].top != want.logprobs[i].top)
      return "log-probability of token " + std::to_string(i);
  }
  if (got.logprobs.empty() != want.logprobs.empty() && n > 0) return "log-probabilities";
  if (got.ids.size() > want.ids.size() || (whole && got.ids.size() != want.ids.size())) {
    return "length " + std::to_string(got.ids.size()) + " for " + std::to_string(want.ids.size()) + " " +
           got.last.error_message;
  }
  if (!whole) return "";
  return got.last.finish_reason == want.last.finish_reason && got.last.thinking_stop == want.last.thinking_stop &&
                 got.last.stop_index == want.last.stop_index
             ? ""
             : "ending " + got.last.error_message;
}

void test_schedule(World& world, uint64_t number) {
  Random random(seed(), number);
  EngineOptions options = world.options;
  options.max_sequences = static_cast<int32_t>(random.between(1, 6));
  options.prefill_chunk = static_cast<int32_t>(random.between(8, 80));
  options.kv_cache_bytes = random.between(6, 40) * kBlockSize * 4;
  options.prefix_cache = random.between(0, 1) == 1;
  Driver driver(world.model, world.device, options);
  std::map<int64_t, Request> requests;
  const int64_t n = random.between(1, 8);
  int64_t next = 0;
  for (int64_t step = 0; next < n || !driver.loop.idle(); ++step) {
    if (next < n && (driver.loop.idle() || random.between(0, 7) == 0)) {
      requests[next] = random_request(random);
      driver.submit(next, requests[next]);
      ++next;
    }
    if (random.between(0, 60) == 0) driver.loop.cancel(random.between(0, n - 1));
    driver.step();
    CHECK(step < 20000);
    if (step >= 20000) return;
  }
  driver.gather();
  driver.check_idle();
  for (auto& [id, request] : requests) {
    const Collected want = world.plainly(request);
    const std::string what = difference_of_tokens(driver.results[id], want);
    CHECK_MSG(what.empty(), "schedule " + std::to_string(number) + ", request " + std::to_string(id) + ": " + what);
  }
}

// Whoever only decodes is always one step ahead, and the cut of a thought from outside drops what was in flight.
void test_running_ahead(World& world) {
  world.device->device.queued = world.device->device.ahead = 0;
  Driver driver(world.model, world.device, world.options);
  Request request;
  request.prompt = {'a', 'b'}, request.max_tokens = 50, request.ignore_eos = true;
  request.segments.can_think = true, request.segments.starts_in_think = true, request.segments.think_close = '>';
  request.segments.think_open = '<', request.segments.loop_breaker = false;
  driver.submit(0, request);
  for (int i = 0; i < 10; ++i) driver.step();
  CHECK(world.device->device.ahead == 10);
  const size_t before = driver.results[0].ids.size();
  driver.loop.end_thinking(0);
  driver.run();
  const Collected& got = driver.results[0];
  CHECK(got.ids[before] == '>' && got.forced[before] && got.ids.size() == 50);
  driver.check_idle();
}

template <class Throw>
void expect_failure(World& world, bool at_collect, Throw fault, const char* code, size_t failed) {
  Driver driver(world.model, world.device, world.options);
  Device& device = world.device->device;
  Request request;
  request.prompt = {'a', 'b', 'c'}, request.max_tokens = 40, request.ignore_eos = true;
  std::vector<Collected> want;
  for (int64_t id = 0; id < 3; ++id) {
    request.sampling.seed = static_cast<uint64_t>(id);
    want.push_back(world.plainly(request));
    driver.submit(id, request);
  }
  for (int i = 0; i < 5; ++i) driver.step();
  const int64_t at = device.queued + 1;
  (at_collect ? device.before_collect : device.before_enqueue) = [&](int64_t step) {
    if (step >= at) fault();
  };
  for (int i = 0; i < 2 && !driver.loop.idle(); ++i) driver.step();
  device.before_enqueue = device.before_collect = nullptr;
  driver.run();
  driver.check_idle();
  size_t failures = 0;
  for (int64_t id = 0; id < 3; ++id) {
    const Collected& got = driver.results[id];
    if (got.last.finish_reason == FinishReason::kError) {
      ++failures;
      CHECK_MSG(got.last.error_code == code, got.last.error_code);
    } else {
      CHECK(difference_of_tokens(got, want[static_cast<size_t>(id)]).empty());
    }
  }
  CHECK_MSG(failures == failed, std::to_string(failures));
  driver.submit(9, request);  // and the engine goes on
  driver.run();
  CHECK(difference_of_tokens(driver.results[9], want[2]).empty());
}

void test_failures(World& world) {
  const auto broken = [] { throw Error(ErrorCode::kInternal, "cudaErrorIllegalAddress"); };
  expect_failure(world, false, broken, "INTERNAL", 3);
  expect_failure(world, true, broken, "INTERNAL", 3);
  // The step ahead is given up while there is no memory; when it is the next one's turn, the youngest gives way.
  expect_failure(
      world, false,
      [n = 0]() mutable {
        if (n++ < 2) throw Error(ErrorCode::kOutOfMemory, "cudaMalloc");
      },
      "OUT_OF_MEMORY", 1);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  World world;
  test_running_ahead(world);
  test_failures(world);
  world.device->device.queued = world.device->device.ahead = 0;
  const uint64_t schedules = whole_suite(argc, argv) ? 3000 : 150;
  for (uint64_t i = 0; i < schedules; ++i) test_schedule(world, i);
  std::printf("%lld steps queued, %lld of them ahead\n", static_cast<long long>(world.device->device.queued),
              static_cast<long long>(world.device->device.ahead));
  CHECK(world.device->device.ahead * 4 > world.device->device.queued);
  return run.finish();
}
