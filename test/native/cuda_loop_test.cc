// The step loop on the emulated device, through the library's door: the engine with tokens drawn on the device against
// the same engine with the host's sampler, both grades of batch invariance, graphs and what a steady state may ask of
// the driver, and what goes wrong. QWEN3_CUDA_LIBRARY names the library with the emulation.

#include <dlfcn.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <latch>
#include <thread>

#include "cuda/client/cuda_backend.h"
#include "engine_harness.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

// What the emulated driver was asked for (emulate/driver.h, DriverCounters).
struct Asked {
  int64_t launches, graph_launches, captured_launches, copies, synchronisations, event_waits, allocations,
      pinned_allocations, resets;
};
Asked asked() {
  void* const library = dlopen(std::getenv("QWEN3_CUDA_LIBRARY"), RTLD_NOW | RTLD_NOLOAD);
  const auto counters = reinterpret_cast<void (*)(int64_t*)>(dlsym(library, "qwen3_cuda_emulated_counters"));
  Asked out{};
  counters(&out.launches);
  return out;
}

class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
  ~Setting() { unsetenv(name_); }

 private:
  const char* name_;
};

ModelConfig moe_config() {
  ModelConfig c = tiny_moe_config();
  c.n_experts = 16, c.top_k_experts = 4;
  return c;
}

// A model with its backend; a character of the texts is a token.
struct World {
  std::shared_ptr<Backend> backend;
  std::shared_ptr<const Model> model;
  EngineOptions options;
  explicit World(const ModelConfig& config, BatchInvariance grade = BatchInvariance::kBatch,
                 const char* device = "cuda")
      : World(config, create_cuda_backend(device, grade)) {}
  World(const ModelConfig& config, std::shared_ptr<Backend> made)
      : backend(std::move(made)), model(make_tiny_model(config, 11, *backend, WeightFormat::kBF16)) {
    options = tiny_options(*model, *backend, 192, 24, DType::kBF16);
    options.max_sequences = 8, options.prefill_chunk = 48;
    options.token_offsets.push_back(0);
    for (int64_t i = 0; i < config.vocab; ++i) {
      options.token_bytes += static_cast<char>(32 + i % 90);
      options.token_offsets.push_back(static_cast<uint32_t>(options.token_bytes.size()));
    }
  }
};

Request plain_request(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t sampling_seed) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.ignore_eos = true;
  r.sampling.seed = sampling_seed, r.sampling.temperature = 2.5f;  // random weights have sharp opinions
  return r;
}

Request random_request(Random& random, int32_t vocab) {
  Request r = plain_request(random.tokens(random.between(1, 30), vocab), random.between(1, 8), random.word());
  SamplingParams& p = r.sampling;
  if (random.between(0, 3) == 0) p.temperature = 0;
  if (random.between(0, 1) == 0) p.top_p = random.uniform(0.3f, 1);
  if (random.between(0, 1) == 0) p.top_k = static_cast<int32_t>(random.between(1, 40));
  if (random.between(0, 2) == 0) p.min_p = random.uniform(0, 0.3f);
  if (random.between(0, 1) == 0) p.presence_penalty = random.uniform(-1, 2), p.frequency_penalty = random.uniform(0, 1);
  if (random.between(0, 2) == 0) p.repetition_penalty = random.uniform(0.7f, 1.6f);
  if (random.between(0, 2) == 0) p.logit_bias = {{3, 4}, {5, -50}};
  r.ignore_eos = false, r.eos = {7, 9, 11, 13};
  if (random.between(0, 2) == 0) r.stop = {"ab", "Q"};
  if (random.between(0, 1) == 0) {
    r.segments.can_think = true, r.segments.think_open = 20, r.segments.think_close = 21;
    r.segments.starts_in_think = true;
    r.segments.budget = random.between(0, 3);
    if (random.between(0, 1) == 0) r.segments.wrap_up = {30, 31, 21, 32};
  }
  return r;
}

// Of each token, and of as many alternatives as were asked for: `want` has more.
bool same_logprobs(const Collected& got, const Collected& want) {
  for (size_t i = 0; i < got.logprobs.size(); ++i) {
    const TokenLogprob &a = got.logprobs[i], &b = want.logprobs.at(i);
    if (a.logprob != b.logprob || !std::equal(a.top.begin(), a.top.end(), b.top.begin())) return false;
  }
  return true;
}

// The same requests in the same schedule: drawn on the device, and, asked for more log-probabilities than it gives, by
// the host.
void test_same_tokens(const ModelConfig& config, uint64_t stream, const char* name) {
  World world(config);
  std::array<std::map<int64_t, Collected>, 2> results;
  for (const bool host : {false, true}) {
    Random random(seed(), stream);
    Driver driver(world.model, world.backend, world.options);
    for (int64_t id = 0; id < 5; ++id) {
      Request r = random_request(random, static_cast<int32_t>(config.vocab));
      r.sampling.top_logprobs = static_cast<int32_t>(random.between(-2, 4));
      if (r.sampling.top_logprobs < 0) r.sampling.top_logprobs = -1;
      if (host) r.sampling.top_logprobs = kMostDeviceLogprobs + 1;
      driver.submit(id, r);
      for (int64_t steps = random.between(0, 3); steps > 0; --steps) driver.step();
    }
    driver.run();
    driver.check_idle();
    results[host] = driver.results;
  }
  int64_t tokens = 0;
  for (auto& [id, got] : results[0]) {
    const Collected& want = results[1][id];
    CHECK_MSG(got.ids == want.ids && got.segments == want.segments,
              std::string(name) + ", request " + std::to_string(id));
    CHECK(got.last.finish_reason == want.last.finish_reason && got.last.thinking_stop == want.last.thinking_stop);
    CHECK(same_logprobs(got, want));
    tokens += static_cast<int64_t>(got.ids.size());
  }
  CHECK(tokens > 4);
}

// Sequences that only decode: a graph, a wait for one point of the stream and a few copies a step, and nothing else.
void test_steady_state(const ModelConfig& config) {
  World world(config);
  Driver driver(world.model, world.backend, world.options);
  Random random(seed(), 20);
  for (int64_t id = 0; id < 3; ++id) {
    Request r = plain_request(random.tokens(3, static_cast<int32_t>(config.vocab)), 12, static_cast<uint64_t>(id));
    r.sampling.presence_penalty = 0.5f;
    driver.submit(id, r);
  }
  for (int i = 0; i < 3; ++i) driver.step();
  const Asked before = asked();
  constexpr int kSteps = 5;
  for (int i = 0; i < kSteps; ++i) driver.step();
  const Asked after = asked();
  CHECK(after.graph_launches - before.graph_launches == kSteps);
  CHECK(after.event_waits - before.event_waits == kSteps);
  CHECK(after.launches == before.launches && after.captured_launches == before.captured_launches);
  CHECK(after.synchronisations == before.synchronisations);
  CHECK(after.allocations == before.allocations && after.pinned_allocations == before.pinned_allocations);
  // The sheet there, the tokens and (of a mixture) the experts' load back.
  CHECK(after.copies - before.copies == kSteps * (config.n_experts > 0 ? 3 : 2));
  // From the first step on nothing was allocated at all, prefill included; and the rest allocates nothing either.
  driver.run();
  const Asked end = asked();
  CHECK(end.allocations == before.allocations && end.pinned_allocations == before.pinned_allocations);
  for (auto& [id, result] : driver.results) CHECK(result.ids.size() == 12);
}

// One that wants log-probabilities holds nobody up: its steps are launched one by one and queued ahead like all others.
void test_logprobs_queued(const ModelConfig& config) {
  World world(config);
  Driver driver(world.model, world.backend, world.options);
  Random random(seed(), 26);
  for (int64_t id = 0; id < 3; ++id) {
    Request r = plain_request(random.tokens(3, static_cast<int32_t>(config.vocab)), 12, static_cast<uint64_t>(id));
    if (id == 1) r.sampling.top_logprobs = 2;
    driver.submit(id, r);
  }
  for (int i = 0; i < 4; ++i) driver.step();
  const Asked before = asked();
  constexpr int kSteps = 4;
  for (int i = 0; i < kSteps; ++i) driver.step();
  const Asked after = asked();
  CHECK(after.event_waits - before.event_waits == kSteps);
  CHECK(after.synchronisations == before.synchronisations);
  CHECK(after.allocations == before.allocations && after.pinned_allocations == before.pinned_allocations);
  CHECK(after.graph_launches == before.graph_launches);
  CHECK(after.copies - before.copies == kSteps * (config.n_experts > 0 ? 4 : 3));
  driver.run();
  CHECK(driver.results[1].logprobs.size() == 12 && driver.results[1].logprobs[3].top.size() == 2);
  CHECK(driver.results[0].logprobs.empty());
}

void test_no_allocation_after_load(const ModelConfig& config) {
  World world(config);
  Driver driver(world.model, world.backend, world.options);
  const Asked before = asked();
  Random random(seed(), 21);
  for (int64_t id = 0; id < 6; ++id)
    driver.submit(id,
                  plain_request(random.tokens(40, static_cast<int32_t>(config.vocab)), 4, static_cast<uint64_t>(id)));
  driver.run();
  const Asked after = asked();
  CHECK(after.allocations == before.allocations && after.pinned_allocations == before.pinned_allocations);
}

std::vector<int32_t> alone(World& world, const Request& request) {
  EngineOptions options = world.options;
  options.prefix_cache = false;
  Driver driver(world.model, world.backend, options);
  driver.submit(0, request);
  driver.run();
  return driver.results[0].ids;
}

// Grade `batch`: neighbours, their number and how a prompt is cut never show, drafts neither.
void test_batch_grade(const ModelConfig& config) {
  World world(config);
  Random random(seed(), 22);
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    auto prompt = random.tokens(random.between(2, 20), static_cast<int32_t>(config.vocab));
    if (i % 2 == 0) prompt.insert(prompt.end(), prompt.begin(), prompt.end());  // so that there is something to draft
    requests.push_back(plain_request(prompt, 5, static_cast<uint64_t>(i)));
    if (i % 2 == 0) requests.back().sampling.temperature = 0;
  }
  EngineOptions options = world.options;
  options.prefix_cache = false;
  options.kv_cache_bytes *= 2;  // nobody is pushed out: what is computed again is prefilled
  std::vector<std::vector<int32_t>> wanted;
  for (const Request& r : requests) wanted.push_back(alone(world, r));
  for (const bool drafts : {false, true}) {
    Driver driver(world.model, world.backend, options);
    for (size_t i = 0; i < requests.size(); ++i) {
      Request r = requests[i];
      if (drafts) r.speculation.max_draft = 4;
      driver.submit(static_cast<int64_t>(i), r);
      driver.step();
    }
    driver.run();
    for (size_t i = 0; i < requests.size(); ++i) {
      CHECK_MSG(driver.results[static_cast<int64_t>(i)].ids == wanted[i],
                std::string(drafts ? "drafts" : "no drafts") + ", request " + std::to_string(i));
    }
  }
}

// Every row of a decoding sequence's drafts has the bits that it has alone.
void test_draft_rows(const ModelConfig& config) {
  World world(config);
  const auto program = world.model->program({});
  const auto cache = world.backend->create_kv_cache(*program, DType::kBF16, 8);
  const auto executable = world.backend->compile(program, world.model->weights(), 64, 256);
  const auto vocab = static_cast<size_t>(config.vocab);
  const auto tokens = Random(seed(), 23).tokens(45, static_cast<int32_t>(config.vocab));
  const std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + 40), drafts(tokens.begin() + 40, tokens.end());
  run_sequence(*executable, *program, *cache, prompt, 0);
  const std::vector<int32_t> table{0, 1}, rows{0, 1, 2, 3, 4};
  const StepSequence together{0, 5, 40, table, 0, true};
  std::vector<float> logits(5 * vocab);
  executable->run({drafts, {&together, 1}, rows}, *cache, logits.data());
  for (size_t i = 0; i < drafts.size(); ++i) {
    const auto one = run_sequence(*executable, *program, *cache, {drafts[i]}, 40 + static_cast<int32_t>(i));
    CHECK(std::equal(one.begin(), one.end(), logits.begin() + static_cast<std::ptrdiff_t>(i * vocab)));
  }
}

// Grade `full`: a position has the same bits whether it was prefilled, decoded, or found in the prefix cache.
void test_full_grade(const ModelConfig& config) {
  World world(config, BatchInvariance::kFull);
  const auto program = world.model->program({});
  const auto cache = world.backend->create_kv_cache(*program, DType::kBF16, 8);
  const auto executable = world.backend->compile(program, world.model->weights(), 64, 256);
  const auto vocab = static_cast<std::ptrdiff_t>(config.vocab);
  const auto tokens = Random(seed(), 24).tokens(12, static_cast<int32_t>(config.vocab));
  const auto whole = run_sequence(*executable, *program, *cache, tokens, 0, 0, 0);
  for (int32_t i = 0; i < 12; ++i) {
    const auto one = run_sequence(*executable, *program, *cache, {tokens[static_cast<size_t>(i)]}, i, 0, 4);
    CHECK(std::equal(one.begin(), one.end(), whole.begin() + i * vocab));
  }
  // Through the engine: an answer continued from the cache, and from nothing, is the same.
  const Request first = plain_request(Random(seed(), 25).tokens(20, static_cast<int32_t>(config.vocab)), 5, 1);
  std::vector<int32_t> said = alone(world, first), more = first.prompt;
  more.insert(more.end(), said.begin(), said.end());
  const Request second = plain_request(more, 3, 2);
  Driver driver(world.model, world.backend, world.options);
  driver.submit(0, first);
  driver.run();
  driver.submit(1, second);
  driver.run();
  CHECK(driver.results[1].last.usage.cached_tokens > 20);
  CHECK(driver.results[0].ids == said && driver.results[1].ids == alone(world, second));
}

// --- what goes wrong: the kernels do not matter ---

ModelConfig small_config() {
  ModelConfig c = tiny_config();
  c.n_layers = 1, c.moe_layer = {0}, c.n_q_heads = c.n_kv_heads = 1;
  return c;
}

void expect_error(const Collected& got, const char* code, const std::string& words) {
  CHECK_MSG(got.finished && got.last.finish_reason == FinishReason::kError && got.last.error_code == code,
            got.last.error_code + " " + got.last.error_message);
  CHECK_MSG(got.last.error_message.find(words) != std::string::npos, got.last.error_message);
}

// A launch fails: the requests of the step end with CUDA's name, the engine goes on.
void test_launch_error() {
  World world(small_config());
  Driver driver(world.model, world.backend, world.options);
  const Request request = plain_request({1, 2, 3}, 6, 5);
  const auto want = alone(world, request);
  for (const char* fault : {"launch:0", "launch:1", "wait:0", "copy:1"}) {
    const int64_t id = driver.loop.idle() ? static_cast<int64_t>(driver.results.size()) : -1;
    driver.submit(id, request);
    for (int i = 0; i < 2; ++i) driver.step();
    {
      const Setting setting("QWEN3_EMULATED_FAULT", fault);
      for (int i = 0; i < 10 && !driver.loop.idle(); ++i) driver.step();
    }
    CHECK(driver.loop.idle());
    expect_error(driver.results[id], "INTERNAL", "cudaErrorLaunchOutOfResources");
    driver.submit(id + 1, request);
    driver.run();
    CHECK_MSG(driver.results[id + 1].ids == want, fault);
  }
  driver.check_idle();
}

// An error that ends the context: every step fails with its name until all is closed; what is loaded then works, where
// a reset helps as it does here.
void test_lost_device() {
  std::vector<int32_t> want;
  std::shared_ptr<Backend> kept;
  const Asked before = asked();
  const Request request = plain_request({1, 2, 3}, 6, 5);
  {
    World world(small_config());
    world.options.poison_blocks = false;  // it would be the first to find out, outside of a step
    want = alone(world, request);
    Driver driver(world.model, world.backend, world.options);
    driver.submit(0, request);
    for (int i = 0; i < 3; ++i) driver.step();
    {
      const Setting setting("QWEN3_EMULATED_FAULT", "wait:0:sticky");
      driver.run();
    }
    expect_error(driver.results[0], "INTERNAL", "cudaErrorIllegalAddress");
    expect_error(driver.results[0], "INTERNAL", "close every model");
    driver.submit(1, request);
    driver.run();
    expect_error(driver.results[1], "INTERNAL", "cudaErrorIllegalAddress");
    // Not while something lives there.
    CHECK_THROWS(make_tiny_model(small_config(), 3, *world.backend, WeightFormat::kBF16), ErrorCode::kInternal);
    CHECK_THROWS(world.backend->available_memory(), ErrorCode::kInternal);
    CHECK_THROWS(create_cuda_backend("cuda:0"), ErrorCode::kInternal);
    const std::string reason = cuda_report().devices.at(0).reason;
    CHECK_MSG(reason.find("cudaErrorIllegalAddress") != std::string::npos, reason);
    CHECK_MSG(reason.find("close every model") != std::string::npos, reason);
    kept = world.backend;
  }
  CHECK(asked().resets == before.resets);
  // Two who load at once: the device is reset for both of them, once. A backend from before is as good as a new one.
  std::array<std::vector<int32_t>, 2> said;
  std::latch together(2);
  const auto load = [&](size_t i) {
    together.arrive_and_wait();
    const std::shared_ptr<Backend> backend = i == 0 ? kept : create_cuda_backend("cuda");
    CHECK(backend->available_memory() > 0);
    World again(small_config(), backend);
    said[i] = alone(again, request);
  };
  std::thread other(load, 1);
  load(0);
  other.join();
  CHECK(asked().resets == before.resets + 1);
  CHECK(said[0] == want && said[1] == want);
}

// All of a model on another device than the first: nothing is made or copied there while the first is current.
void test_second_device() {
  const Setting two("QWEN3_EMULATED_DEVICES", "2");
  World first(small_config()), second(small_config(), BatchInvariance::kBatch, "cuda:1");
  const Request request = plain_request({1, 2, 3}, 3, 5);
  CHECK(alone(second, request) == alone(first, request));
}

// Memory runs out for a graph, while it is captured or launched for the first time, or for a launch of a step queued
// ahead: nobody notices.
void test_memory_for_graphs() {
  struct Case {
    const char* fault;
    bool score;     // wants more rows of logits than there were: graphs have to be captured again
    bool logprobs;  // no graphs: a step is launched kernel by kernel
  };
  World world(small_config());
  world.options.prefix_cache = false;
  Request request = plain_request({1, 2, 3}, 6, 5);
  const auto want = alone(world, request);
  Request scored;
  scored.prompt = Random(seed(), 30).tokens(20, 160);
  scored.want_score = true;
  for (const Case& c : {Case{"capture:0:memory", true, false}, Case{"end_capture:0:memory", true, false},
                        Case{"instantiate:1:memory", true, false}, Case{"launch:0:memory", false, false},
                        Case{"launch:20:memory", false, true}}) {
    Driver driver(world.model, world.backend, world.options);
    request.sampling.top_logprobs = c.logprobs ? 1 : -1;
    driver.submit(0, request), driver.submit(1, request);
    for (int i = 0; i < 2; ++i) driver.step();
    if (c.score) driver.submit(2, scored);
    const Setting setting("QWEN3_EMULATED_FAULT", c.fault);
    driver.run();
    for (int64_t id = 0; id < 2; ++id) {
      CHECK_MSG(driver.results[id].ids == want, c.fault + (" " + driver.results[id].last.error_message));
      CHECK(driver.results[id].last.finish_reason == FinishReason::kLength);
    }
    if (c.score) CHECK_MSG(driver.results[2].last.values.size() == 19, c.fault);
    driver.check_idle();
  }
}

// Memory runs out while a step grows a buffer: who wants the most rows of logits ends with OUT_OF_MEMORY, be it the
// oldest; the others do not notice.
void test_memory_while_growing(bool score_first, const char* fault) {
  World world(small_config());
  world.options.prefix_cache = false;
  Driver driver(world.model, world.backend, world.options);
  const Request request = plain_request({1, 2, 3}, 5, 5);
  const auto want = alone(world, request);
  // Scores want more rows of logits at once than there are sequences.
  Request scored;
  scored.prompt = Random(seed(), 30).tokens(20, 160);
  scored.want_score = true;
  if (!score_first) {
    driver.submit(0, request), driver.submit(1, request);
    for (int i = 0; i < 3; ++i) driver.step();
  }
  driver.submit(2, scored);
  if (score_first) driver.submit(0, request), driver.submit(1, request);
  const Asked before = asked();
  {
    const Setting setting("QWEN3_EMULATED_FAULT", fault);
    for (int i = 0; i < 4; ++i) driver.step();
  }
  // Graphs are captured again only where something moved: one buffer had grown when the next one could not.
  CHECK((asked().captured_launches > before.captured_launches) == (fault == std::string("allocate:1")));
  expect_error(driver.results[2], "OUT_OF_MEMORY", "cudaErrorMemoryAllocation");
  driver.submit(3, scored);
  driver.run();
  CHECK(driver.results[0].ids == want && driver.results[1].ids == want);
  CHECK(driver.results[3].last.values.size() == 19);
  driver.check_idle();
}

void expect_refusal(const std::string& words) {
  try {
    create_cuda_backend("cuda");
    CHECK_MSG(false, words);
  } catch (const Error& error) {
    CHECK_MSG(error.code() == ErrorCode::kUnsupported && error.subject() == "device", error.what());
    CHECK_MSG(std::string(error.what()).find(words) != std::string::npos, error.what());
  }
}

// Versions that do not fit: one sentence with both.
void test_versions() {
  {
    const Setting old("QWEN3_EMULATED_DRIVER", "12040");
    expect_refusal("supports CUDA 12.4, this version of qwen3 needs 13.0");
  }
  const std::string before = std::getenv("QWEN3_CUDA_LIBRARY");
  setenv("QWEN3_CUDA_LIBRARY", std::getenv("QWEN3_CUDA_OTHER_VERSION"), 1);
  expect_refusal("speaks version 7 (qwen3 9.8.7) of the CUDA interface, this addon version ");
  setenv("QWEN3_CUDA_LIBRARY", before.c_str(), 1);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  if (!std::getenv("QWEN3_CUDA_LIBRARY")) {
    std::fprintf(stderr, "QWEN3_CUDA_LIBRARY must name the library with the emulated device\n");
    return 1;
  }
  const auto timed = [](const char* name, auto test) {
    const auto begin = std::chrono::steady_clock::now();
    test();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    std::printf("%s: %.1f s\n", name, spent.count());
    std::fflush(stdout);
  };
  uint64_t stream = 1;
  const auto report = cuda_report();
  if (!report.devices.empty() && report.devices[0].name.find("emulated") == std::string::npos) {  // gpu_check
    for (; stream <= 8; ++stream) test_same_tokens(stream % 2 ? tiny_config() : moe_config(), stream, "on a GPU");
    for (const ModelConfig& config : {tiny_config(), moe_config()})
      test_batch_grade(config), test_draft_rows(config), test_full_grade(config);
    return run.finish();
  }
  for (const std::string& schedule : {std::string("early"), std::string("late"), std::to_string(seed())}) {
    const Setting setting("QWEN3_EMULATED_SCHEDULE", schedule);
    timed("same tokens, dense", [&] { test_same_tokens(tiny_config(), stream++, "dense"); });
  }
  timed("same tokens, sparse", [&] { test_same_tokens(moe_config(), stream++, "sparse"); });
  timed("steady state, dense", [] { test_steady_state(tiny_config()); });
  timed("steady state, sparse", [] { test_steady_state(moe_config()); });
  timed("log-probabilities", [] { test_logprobs_queued(tiny_config()); });
  timed("allocations", [] { test_no_allocation_after_load(moe_config()); });
  timed("grade batch, dense", [] { test_batch_grade(tiny_config()); });
  timed("grade batch, sparse", [] { test_batch_grade(moe_config()); });
  timed("rows of drafts", [] { test_draft_rows(tiny_config()), test_draft_rows(moe_config()); });
  timed("grade full", [] { test_full_grade(tiny_config()), test_full_grade(moe_config()); });
  timed("launch errors", test_launch_error);
  timed("lost device", test_lost_device);
  timed("second device", test_second_device);
  timed("memory for graphs", test_memory_for_graphs);
  timed("memory while growing", [] {
    test_memory_while_growing(false, "allocate:0"), test_memory_while_growing(true, "allocate:0");
    test_memory_while_growing(false, "allocate:1");
  });
  timed("versions", test_versions);
  return run.finish();
}
