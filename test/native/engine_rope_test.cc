// YaRN per sequence: nothing is scaled that fits the native window; a sequence that grows past it is prefilled again,
// scaled, and goes on as one that was scaled from the start; scaled and unscaled blocks never meet.

#include "engine_harness.h"
#include "scripted_backend.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr int64_t kWindow = 128, kContext = 320;
using Rope = EngineOptions::Rope;

struct Setup {
  std::shared_ptr<Backend> backend = create_reference_backend();
  std::shared_ptr<const Model> model;
  EngineOptions options;
  Setup() {
    ModelConfig config = tiny_config();
    config.native_window = kWindow, config.n_layers = 1, config.hidden = 32, config.ffn = 32;
    config.moe_layer.assign(1, 0);
    model = make_tiny_model(config, 9, *backend);
    options = tiny_options(*model, *backend, kContext, 24);
    options.prefill_chunk = 48;
    YarnConfig yarn;
    yarn.factor = 4, yarn.original_max_position_embeddings = kWindow;
    options.yarn = yarn;
  }
  Driver driver(Rope rope, int64_t context = kContext) const {
    EngineOptions o = options;
    o.rope = rope, o.context_length = context;
    if (rope == Rope::kNever) o.yarn.reset();
    return Driver(model, backend, o);
  }
};

Request request(std::vector<int32_t> prompt, int64_t max_tokens) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.sampling.seed = 11;
  r.sampling.top_logprobs = 0;
  return r;
}

bool same(const Collected& a, const Collected& b) {
  if (a.ids != b.ids) return false;
  for (size_t i = 0; i < a.ids.size(); ++i) {
    if (a.logprobs[i].logprob != b.logprobs[i].logprob) return false;
  }
  return true;
}

Collected run_one(Driver&& driver, const Request& r) {
  driver.submit(1, r);
  driver.run();
  driver.check_idle();
  return driver.results[1];
}

void policy() {
  const RopePolicy automatic{Rope::kAuto, true, 32768}, always{Rope::kStatic, true, 32768},
      never{Rope::kNever, true, 32768};
  CHECK(automatic.initial_table(100, 32768) == 0 && automatic.initial_table(31744, 100000) == 0);
  CHECK(automatic.initial_table(31745, 100000) == 1);  // within 1/32 of the window
  CHECK(automatic.initial_table(31745, 32768) == 0);   // but it can never outgrow it
  CHECK(automatic.initial_table(40000, 100000) == 1);
  CHECK(!automatic.outgrown(0, 32768) && automatic.outgrown(0, 32769) && !automatic.outgrown(1, 40000));
  CHECK(always.initial_table(1, 2) == 1 && !always.outgrown(1, 40000));
  CHECK(never.initial_table(40000, 100000) == 0 && !never.outgrown(0, 40000));
  const RopePolicy without{Rope::kAuto, false, 32768};
  CHECK(without.initial_table(32768, 32768) == 0 && !without.outgrown(0, 32769));
}

// A short request is bit-identical with and without the long context.
void short_stays_unscaled(const Setup& setup, Random& random) {
  const Request r = request(random.tokens(60, 160), 60);
  const Collected plain = run_one(setup.driver(Rope::kNever, kWindow), r);
  CHECK(same(run_one(setup.driver(Rope::kAuto), r), plain));
  CHECK(!same(run_one(setup.driver(Rope::kStatic), r), plain));
}

void grows_past_the_window(const Setup& setup, Random& random) {
  const Request r = request(random.tokens(100, 160), 80);
  const Collected grown = run_one(setup.driver(Rope::kAuto), r);
  CHECK(grown.ids.size() == 80 && grown.last.usage.rescale_ms > 0);
  // Up to the window, token 29 included, which was sampled from 128 unscaled positions.
  const Collected before = run_one(setup.driver(Rope::kNever), r);
  CHECK(std::equal(grown.ids.begin(), grown.ids.begin() + 29, before.ids.begin()));
  // From there as a request whose prompt is everything so far and that is scaled from the start.
  Request rest = request(r.prompt, 80 - 29);
  rest.prompt.insert(rest.prompt.end(), grown.ids.begin(), grown.ids.begin() + 29);
  const Collected after = run_one(setup.driver(Rope::kStatic), rest);
  CHECK(std::equal(grown.ids.begin() + 29, grown.ids.end(), after.ids.begin()));
  for (size_t i = 29; i < 80; ++i) CHECK(grown.logprobs[i].logprob == after.logprobs[i - 29].logprob);
  CHECK(run_one(setup.driver(Rope::kAuto), rest).last.usage.rescale_ms == 0);  // starts scaled
}

// Others go on while one is prefilled again; it can be cancelled there.
void in_company(const Setup& setup, Random& random) {
  Driver driver = setup.driver(Rope::kAuto);
  const Request grows = request(random.tokens(120, 160), 60), stays = request(random.tokens(10, 160), 100);
  driver.submit(1, grows);
  driver.submit(2, stays);
  driver.submit(3, grows);
  while (driver.results[1].ids.size() < 9) driver.step();
  const size_t others = driver.results[2].ids.size();
  driver.step();
  CHECK(driver.results[1].ids.size() == 9 && driver.results[2].ids.size() == others + 1);
  driver.loop.cancel(3);
  driver.gather();
  CHECK(driver.results[3].last.finish_reason == FinishReason::kAborted);
  driver.run();
  driver.check_idle();
  CHECK(same(driver.results[1], run_one(setup.driver(Rope::kAuto), grows)));
  CHECK(same(driver.results[2], run_one(setup.driver(Rope::kAuto), stays)));
}

// The cache holds the same tokens scaled and unscaled; each request finds its own kind.
void cache_kinds_stay_apart() {
  const auto backend = std::make_shared<ScriptedBackend>();
  backend->script.next = [](const std::vector<int32_t>& tokens, int32_t table) {
    return hashed_next(tokens, table, 160);
  };
  ModelConfig config = tiny_config();
  config.native_window = kWindow;
  const auto model = make_tiny_model(config, 1, *backend);
  EngineOptions options;
  options.context_length = 1024;
  options.kv_cache_bytes = 64 * kBlockSize * 4;
  YarnConfig yarn;
  yarn.original_max_position_embeddings = kWindow;
  options.yarn = yarn;
  Driver driver(model, backend, options);
  Request scaled = request(std::vector<int32_t>(200, 9), 4), plain = request(std::vector<int32_t>(100, 9), 4);
  int64_t id = 0;
  const auto cached = [&](const Request& r) {
    driver.submit(++id, r);
    driver.run();
    return driver.results[id].last.usage.cached_tokens;
  };
  CHECK(cached(scaled) == 0);
  CHECK(cached(plain) == 0);
  CHECK(cached(plain) == 99);
  CHECK(cached(scaled) == 199);
  driver.check_idle();
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  const Setup setup;
  policy();
  short_stays_unscaled(setup, random);
  grows_past_the_window(setup, random);
  in_company(setup, random);
  cache_kinds_stay_apart();
  return run.finish();
}
