// Batch invariance through the whole engine, bit for bit: a request gives the same tokens, log-probabilities, logits
// and scores alone, in any company, however its prompt is cut into chunks, preempted, continued from the prefix cache,
// beside requests that are cancelled, with drafts of any length or without, with NaN in every slot of the cache that
// was not written. 60 random schedules, 1,000 in the long suite; half on the reference, half on the fast CPU backend.

#include <algorithm>

#include "engine_harness.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr int64_t kContext = 320;
constexpr int32_t kThinkOpen = 1, kThinkClose = 2, kToolOpen = 3, kToolClose = 4, kEos = 5, kNewline = 6;

struct World {
  std::shared_ptr<Backend> backend;
  std::shared_ptr<const Model> model;
  EngineOptions options;  // of the lone runs
  std::vector<Request> requests;
  std::vector<Collected> alone;
};

ModelConfig small_config(bool sparse) {
  ModelConfig c = sparse ? tiny_moe_config() : tiny_config();
  c.hidden = 32, c.n_q_heads = 2, c.n_kv_heads = 1, c.head_dim = 32, c.ffn = 48, c.vocab = 96;
  c.native_window = 200;
  return c;
}

Request random_request(Random& random, const std::vector<std::vector<int32_t>>& prefixes) {
  Request r;
  if (random.between(0, 2) > 0) {
    r.prompt = prefixes[static_cast<size_t>(random.between(0, static_cast<int64_t>(prefixes.size()) - 1))];
    if (random.between(0, 1))
      r.prompt.resize(static_cast<size_t>(random.between(1, static_cast<int64_t>(r.prompt.size()))));
  }
  const std::vector<int32_t> own = random.tokens(random.between(r.prompt.empty() ? 1 : 0, 40), 96);
  r.prompt.insert(r.prompt.end(), own.begin(), own.end());
  r.max_tokens = random.between(1, 40);
  if (random.between(0, 9) == 0) r.max_tokens = -1;
  r.sampling.seed = random.word();
  r.sampling.temperature = random.between(0, 3) ? random.uniform(0.5f, 1.5f) : 0;
  if (random.between(0, 1)) r.sampling.top_k = static_cast<int32_t>(random.between(1, 30));
  if (random.between(0, 1)) r.sampling.top_p = random.uniform(0.3f, 1);
  if (random.between(0, 2) == 0) r.sampling.presence_penalty = 1.5f;
  if (random.between(0, 2) == 0) r.sampling.repetition_penalty = 1.2f;
  r.sampling.top_logprobs = 3;
  r.eos = {kEos};
  r.ignore_eos = random.between(0, 1);
  if (random.between(0, 1)) {
    SegmentPlan& s = r.segments;
    s.can_think = true;
    s.starts_in_think = random.between(0, 2) > 0;
    s.think_open = kThinkOpen, s.think_close = kThinkClose, s.tool_open = kToolOpen, s.tool_close = kToolClose;
    s.wrap_up = {10, 11, 12, kThinkClose, kNewline};
    s.budget = random.between(-1, 20);
  }
  if (random.between(0, 3) == 0) r.stop = {"ab", "b\n", "xyzzy"};
  const int64_t kind = random.between(0, 9);
  r.want_prompt_logits = kind == 0;
  r.want_score = kind == 1;
  r.cache_namespace = static_cast<uint64_t>(random.between(0, 1));
  return r;
}

// Ids 7 to 95 are one printable character each, so that stop strings have something to match.
void fill_token_bytes(EngineOptions& options) {
  options.token_offsets.push_back(0);
  for (int32_t id = 0; id < 96; ++id) {
    if (id == kNewline) options.token_bytes += '\n';
    if (id > kNewline) options.token_bytes += static_cast<char>('a' + id % 26);
    options.token_offsets.push_back(static_cast<uint32_t>(options.token_bytes.size()));
  }
}

World make_world(Random& random, std::shared_ptr<Backend> backend, WeightFormat format, DType kv, bool sparse, int n) {
  World w;
  w.backend = std::move(backend);
  w.model = make_tiny_model(small_config(sparse), random.word(), *w.backend, format);
  w.options = tiny_options(*w.model, *w.backend, kContext, 8, kv);
  YarnConfig yarn;
  yarn.factor = 2, yarn.original_max_position_embeddings = 200;
  w.options.yarn = yarn;
  w.options.prefix_cache = false;
  fill_token_bytes(w.options);
  std::vector<std::vector<int32_t>> prefixes;
  for (const int64_t length : {30, 64, 128, 150, 197, 230}) prefixes.push_back(random.tokens(length, 96));
  for (int i = 0; i < n; ++i) {
    w.requests.push_back(random_request(random, prefixes));
    Driver lone(w.model, w.backend, w.options);
    lone.submit(0, w.requests.back());
    lone.run();
    lone.check_idle();
    CHECK(lone.results[0].last.finish_reason != FinishReason::kError);
    w.alone.push_back(lone.results[0]);
  }
  return w;
}

Speculation random_speculation(Random& random) {
  Speculation s;
  s.max_draft = static_cast<int32_t>(random.between(1, 24));
  s.min_ngram = static_cast<int32_t>(random.between(1, 3));
  s.max_ngram = static_cast<int32_t>(random.between(s.min_ngram, 6));
  return s;
}

struct Totals {
  int64_t drafts = 0, accepted = 0;
  int64_t requests = 0, cancelled = 0, preemptions = 0, cached = 0, steps = 0, rescaled = 0;
};

// pressed: many at once on few blocks, so that some are pushed out.
void schedule(Random& random, const World& w, bool pressed, Totals& totals) {
  EngineOptions options = w.options;
  options.prefill_chunk = static_cast<int32_t>(random.between(0, 3) ? random.between(1, 90) : 512);
  options.prefill_beside = static_cast<int32_t>(random.between(0, 1) ? random.between(1, 90) : 512);
  options.max_sequences = static_cast<int32_t>(random.between(pressed ? 4 : 1, 8));
  options.prefix_cache = random.between(0, 3) > 0;
  const int64_t blocks = pressed || random.between(0, 1) ? random.between(5, 9) : random.between(10, 40);
  options.kv_cache_bytes = w.options.kv_cache_bytes / 8 * blocks;
  Driver driver(w.model, w.backend, options);
  std::map<int64_t, size_t> asked;  // id -> request
  std::vector<int64_t> live;
  const int64_t n = random.between(pressed ? 8 : 1, 14), haste = pressed ? 0 : random.between(0, 6);
  for (int64_t id = 0; id < n || !driver.loop.idle();) {
    if (id < n && (driver.loop.idle() || random.between(0, haste) == 0)) {
      const size_t which = static_cast<size_t>(random.between(0, static_cast<int64_t>(w.requests.size()) - 1));
      Request request = w.requests[which];
      if (random.between(0, 1)) request.speculation = random_speculation(random);
      driver.submit(id, request);
      asked[id] = which;
      live.push_back(id++);
      continue;
    }
    driver.step();
    ++totals.steps;
    driver.loop.pool().check();
    if (random.between(0, 60) == 0) {
      const int64_t id_cancelled = live[static_cast<size_t>(random.between(0, static_cast<int64_t>(live.size()) - 1))];
      const int64_t in_use = driver.loop.pool().total() - driver.loop.pool().available();
      driver.loop.cancel(id_cancelled);
      CHECK(driver.loop.pool().total() - driver.loop.pool().available() <= in_use);
      driver.gather();
      CHECK(driver.results[id_cancelled].finished);
    }
  }
  driver.gather();
  driver.check_idle();
  for (const auto& [id, which] : asked) {
    const Collected& got = driver.results[id];
    CHECK(got.finished);
    const std::string differs = difference(got, w.alone[which]);
    CHECK_MSG(differs.empty(),
              differs + ", request " + std::to_string(which) + " (" + std::to_string(w.requests[which].prompt.size()) +
                  " tokens), chunk " + std::to_string(options.prefill_chunk) + ", blocks " + std::to_string(blocks) +
                  (options.prefix_cache ? ", cached " : ", ") + std::to_string(got.last.usage.cached_tokens) +
                  ", rescaled " + std::to_string(got.last.usage.rescale_ms) + " " + got.last.error_message);
    CHECK(got.last.usage.prompt_tokens == static_cast<int64_t>(w.requests[which].prompt.size()));
    CHECK(got.completion_tokens() == static_cast<int64_t>(got.ids.size()));
    CHECK(got.last.usage.cached_tokens < got.last.usage.prompt_tokens + 6);
    totals.drafts += got.last.usage.draft_tokens;
    totals.accepted += got.last.usage.accepted_tokens;
    totals.cached += got.last.usage.cached_tokens;
    totals.cancelled += got.last.finish_reason == FinishReason::kAborted;
    totals.rescaled += got.last.usage.rescale_ms > 0;
  }
  totals.requests += n;
  totals.preemptions += driver.loop.scheduler().preemptions();
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const int64_t schedules = whole_suite(argc, argv) ? 1000 : 60;
  Random random(seed());
  std::vector<World> worlds;
  worlds.push_back(make_world(random, create_reference_backend(), WeightFormat::kF32, DType::kF32, false, 24));
  worlds.push_back(make_world(random, create_cpu_backend(2, "auto"), WeightFormat::kBF16, DType::kBF16, false, 24));
  worlds.push_back(make_world(random, create_reference_backend(), WeightFormat::kBF16, DType::kBF16, true, 16));
  worlds.push_back(make_world(random, create_cpu_backend(2, "auto"), WeightFormat::kF32, DType::kF32, true, 16));
  worlds.push_back(make_world(random, create_cpu_backend(2, "auto"), WeightFormat::kInt8, DType::kInt8, false, 16));
  worlds.push_back(make_world(random, create_cpu_backend(2, "auto"), WeightFormat::kInt4, DType::kF32, true, 12));
  worlds.push_back(make_world(random, create_cpu_backend(2, "auto"), WeightFormat::kBF16, DType::kInt8, true, 12));
  Totals totals;
  for (int64_t i = 0; i < schedules; ++i) {
    Random own(seed(), static_cast<uint64_t>(i) + 1);
    schedule(own, worlds[static_cast<size_t>(i) % worlds.size()], i % 4 == 0, totals);
  }
  std::printf(
      "%lld schedules, %lld requests, %lld cancelled, %lld preemptions, %lld rescaled, %lld cached tokens, %lld "
      "steps, %lld of %lld draft tokens accepted\n",
      static_cast<long long>(schedules), static_cast<long long>(totals.requests),
      static_cast<long long>(totals.cancelled), static_cast<long long>(totals.preemptions),
      static_cast<long long>(totals.rescaled), static_cast<long long>(totals.cached),
      static_cast<long long>(totals.steps), static_cast<long long>(totals.accepted),
      static_cast<long long>(totals.drafts));
  // A run that exercises nothing proves nothing.
  CHECK(totals.preemptions > 0 && totals.cached > 0 && totals.cancelled > 0 && totals.rescaled > 0);
  CHECK(totals.accepted > 0 && totals.accepted < totals.drafts);
  return run.finish();
}
