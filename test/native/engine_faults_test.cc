// The threaded engine under bad input and failure: every refusal has its code and field; a step that throws ends the
// requests in it and nothing else; cancels, closing and destruction at any moment end cleanly and free every block.

#include <thread>

#include "engine_harness.h"
#include "scripted_backend.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr int32_t kVocab = 100;

struct Setup {
  std::shared_ptr<ScriptedBackend> backend = std::make_shared<ScriptedBackend>();
  std::shared_ptr<const Model> model;
  EngineOptions options;
  Inbox inbox;

  Setup() {
    ModelConfig config = tiny_config();
    config.vocab = kVocab, config.native_window = 4096;
    model = make_tiny_model(config, 1, *backend);
    backend->script.next = [](const std::vector<int32_t>& tokens, int32_t table) {
      return hashed_next(tokens, table, kVocab);
    };
    options.context_length = 1024;
    options.kv_cache_bytes = 64 * kBlockSize * 4;
    options.prefill_chunk = 32;
    options.poison_blocks = true;
  }
  std::unique_ptr<Engine> start() { return Engine::create(model, backend, options, inbox.sink()); }
};

Request request(int64_t prompt, int64_t max_tokens, int32_t first = 1) {
  Request r;
  r.prompt.assign(static_cast<size_t>(prompt), 7);
  r.prompt[0] = first;
  r.max_tokens = max_tokens;
  r.sampling.temperature = 0;
  return r;
}

void wait_idle(const Engine& engine) {
  for (int i = 0; i < 5000; ++i) {
    const EngineStats s = engine.stats();
    if (s.running == 0 && s.waiting == 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const EngineStats s = engine.stats();
  CHECK(s.running == 0 && s.waiting == 0 && s.free_blocks + s.cached_blocks == s.total_blocks);
}

void refuses_requests() {
  Setup setup;
  const auto engine = setup.start();
  const auto refused = [&](void (*change)(Request&), ErrorCode code, const char* field) {
    Request r = request(10, 5);
    change(r);
    CHECK_THROWS_SUBJECT(engine->submit(1, r), code, field);
  };
  refused([](Request& r) { r.prompt.clear(); }, ErrorCode::kInvalidArgument, "prompt");
  refused([](Request& r) { r.prompt[3] = kVocab; }, ErrorCode::kInvalidArgument, "prompt");
  refused([](Request& r) { r.prompt[3] = -1; }, ErrorCode::kInvalidArgument, "prompt");
  refused([](Request& r) { r.eos = {kVocab}; }, ErrorCode::kInvalidArgument, "eos");
  refused([](Request& r) { r.max_tokens = 0; }, ErrorCode::kInvalidArgument, "maxTokens");
  refused([](Request& r) { r.max_tokens = -2; }, ErrorCode::kInvalidArgument, "maxTokens");
  refused([](Request& r) { r.stop = {""}; }, ErrorCode::kInvalidArgument, "stop");
  refused([](Request& r) { r.want_score = r.want_prompt_logits = true; }, ErrorCode::kInvalidArgument, "mode");
  refused([](Request& r) { r.sampling.top_p = 0; }, ErrorCode::kInvalidArgument, "topP");
  refused([](Request& r) { r.sampling.temperature = std::nanf(""); }, ErrorCode::kInvalidArgument, "temperature");
  refused([](Request& r) { r.speculation.max_draft = -1; }, ErrorCode::kInvalidArgument, "speculation.maxDraft");
  refused([](Request& r) { r.speculation.max_draft = 65; }, ErrorCode::kInvalidArgument, "speculation.maxDraft");
  refused([](Request& r) { r.speculation.min_ngram = 0; }, ErrorCode::kInvalidArgument, "speculation.minNgram");
  refused([](Request& r) { r.speculation.max_ngram = 1; }, ErrorCode::kInvalidArgument, "speculation.maxNgram");
  refused([](Request& r) { r.speculation.max_ngram = 17; }, ErrorCode::kInvalidArgument, "speculation.maxNgram");
  refused([](Request& r) { r.segments.budget = -2; }, ErrorCode::kInvalidArgument, "thinkingBudget");
  refused([](Request& r) { r.prompt.assign(1024, 1); }, ErrorCode::kContextOverflow, "prompt");
  refused([](Request& r) { r.prompt.assign(5000, 1); }, ErrorCode::kContextOverflow, "prompt");
  CHECK_THROWS_SUBJECT(engine->set_thinking_budget(1, -2), ErrorCode::kInvalidArgument, "thinkingBudget");
  try {
    engine->submit(1, request(5000, 1));
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("5000") != std::string::npos);
    CHECK(std::string(error.what()).find("1024") != std::string::npos);
  }
  engine->submit(2, request(1023, -1));
  CHECK(setup.inbox.wait(2).ids.size() == 1);  // the last token that fits
  engine->cancel(12345);
  wait_idle(*engine);
}

void refuses_options() {
  Setup setup;
  const auto refused = [&](void (*change)(EngineOptions&), ErrorCode code, const char* field) {
    EngineOptions options = setup.options;
    change(options);
    CHECK_THROWS_SUBJECT(Engine::create(setup.model, setup.backend, options, setup.inbox.sink()), code, field);
  };
  refused([](EngineOptions& o) { o.context_length = 0; }, ErrorCode::kInvalidArgument, "contextLength");
  refused([](EngineOptions& o) { o.context_length = 5000; }, ErrorCode::kInvalidArgument, "contextLength");  // no yarn
  refused([](EngineOptions& o) { o.max_sequences = 0; }, ErrorCode::kInvalidArgument, "maxSequences");
  refused([](EngineOptions& o) { o.kv_cache_bytes = 10; }, ErrorCode::kInvalidArgument, "kvCacheBytes");
  refused([](EngineOptions& o) { o.rope = EngineOptions::Rope::kStatic; }, ErrorCode::kInvalidArgument, "rope");
  refused([](EngineOptions& o) { o.token_offsets = {0, 5}; }, ErrorCode::kInvalidArgument, "tokenOffsets");
  refused([](EngineOptions& o) { o.kv_cache_bytes = int64_t{1} << 37; }, ErrorCode::kOutOfMemory, "");
  setup.options.kv_cache_bytes = 2 * kBlockSize * 4;  // a pool smaller than the context
  const auto engine = setup.start();
  CHECK_THROWS_SUBJECT(engine->submit(1, request(500, 1)), ErrorCode::kOutOfMemory, "kvCacheBytes");
  engine->submit(2, request(100, -1));
  CHECK(setup.inbox.wait(2).ids.size() == 28);
}

// The n-th step throws: its requests fail with the code, later ones give what a fresh engine gives.
void step_failures() {
  for (int kind = 0; kind < 3; ++kind) {
    for (const int64_t failing : {1, 2, 5, 9}) {
      Setup setup;
      std::atomic<int64_t> step = 0;
      setup.backend->script.before_run = [&](const StepBatch&) {
        if (++step != failing) return;
        if (kind == 0) throw Error(ErrorCode::kUnsupported, "injected", "here");
        if (kind == 1) throw std::bad_alloc();
        throw std::runtime_error("injected");
      };
      const auto engine = setup.start();
      engine->submit(1, request(100, 20));
      const Collected failed = setup.inbox.wait(1);
      const char* const codes[] = {"UNSUPPORTED", "OUT_OF_MEMORY", "INTERNAL"};
      CHECK(failed.last.finish_reason == FinishReason::kError && failed.last.error_code == codes[kind]);
      if (kind == 0) CHECK(failed.last.error_message == "injected" && failed.last.error_subject == "here");
      wait_idle(*engine);
      engine->submit(2, request(100, 20));
      const Collected good = setup.inbox.wait(2);
      CHECK(good.last.finish_reason == FinishReason::kLength);
      std::vector<int32_t> tokens = request(100, 1).prompt;
      for (const int32_t id : good.ids) {
        CHECK(id == hashed_next(tokens, 0, kVocab));
        tokens.push_back(id);
      }
      CHECK(std::equal(failed.ids.begin(), failed.ids.end(), good.ids.begin()));
      wait_idle(*engine);
    }
  }
}

// Logits that are not numbers end that request; its neighbours' outputs stay bit for bit the same.
void spoiled_row() {
  for (const float bad : {std::nanf(""), INFINITY}) {
    Setup setup;
    setup.backend->script.after_row = [&](int64_t, const std::vector<int32_t>& tokens, float* logits) {
      if (tokens[0] == 66 && tokens.size() == 25) logits[17] = bad;
    };
    const auto engine = setup.start();
    for (int64_t id = 1; id <= 5; ++id) engine->submit(id, request(20, 30, id == 3 ? 66 : static_cast<int32_t>(id)));
    for (int64_t id = 1; id <= 5; ++id) {
      const Collected got = setup.inbox.wait(id);
      if (id == 3) {
        CHECK(got.last.finish_reason == FinishReason::kError && got.last.error_code == "INTERNAL" &&
              got.ids.size() == 5);
        continue;
      }
      std::vector<int32_t> tokens = request(20, 1, static_cast<int32_t>(id)).prompt;
      for (const int32_t token : got.ids) {
        CHECK(token == hashed_next(tokens, 0, kVocab));
        tokens.push_back(token);
      }
      CHECK(got.ids.size() == 30);
    }
    wait_idle(*engine);
  }
}

// Cancelling frees the blocks within one step, in prefill and in decode.
void cancel_is_prompt() {
  for (const bool in_prefill : {true, false}) {
    Setup setup;
    std::atomic<int64_t> steps = 0;
    setup.backend->script.before_run = [&](const StepBatch&) {
      ++steps;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    };
    const auto engine = setup.start();
    engine->submit(1, request(in_prefill ? 1000 : 10, 1000));
    while (steps < 4) std::this_thread::yield();
    engine->cancel(1);
    const int64_t at = steps;
    CHECK(setup.inbox.wait(1).last.finish_reason == FinishReason::kAborted);
    CHECK(steps <= at + 1);
    wait_idle(*engine);
  }
}

void closing() {
  Setup setup;
  setup.backend->script.before_run = [](const StepBatch&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  };
  setup.options.max_sequences = 2;
  const auto engine = setup.start();
  for (int64_t id = 1; id <= 6; ++id) engine->submit(id, request(200, 500));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  engine->close();
  for (int64_t id = 1; id <= 6; ++id) CHECK(setup.inbox.wait(id).last.finish_reason == FinishReason::kAborted);
  CHECK_THROWS(engine->submit(7, request(5, 5)), ErrorCode::kClosed);
  engine->close();
  engine->end_thinking(1);
  wait_idle(*engine);
}

void busy() {
  Setup setup;
  std::atomic<bool> go = false;
  setup.backend->script.before_run = [&](const StepBatch&) {
    while (!go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  setup.options.max_waiting = 3, setup.options.max_sequences = 1;
  const auto engine = setup.start();
  int64_t accepted = 0;
  bool refused = false;
  for (int64_t id = 1; id <= 20 && !refused; ++id) {
    try {
      engine->submit(id, request(5, 2));
      ++accepted;
    } catch (const Error& error) {
      refused = error.code() == ErrorCode::kBusy;
    }
  }
  CHECK(refused && accepted >= 3 && accepted <= 7);
  go = true;
  for (int64_t id = 1; id <= accepted; ++id) CHECK(setup.inbox.wait(id).ids.size() == 2);
  engine->submit(100, request(5, 2));
  CHECK(setup.inbox.wait(100).ids.size() == 2);
}

// Destroyed in prefill, in decode, while idle, with commands in flight from other threads.
void destruction(Random& random, int times) {
  for (int i = 0; i < times; ++i) {
    Setup setup;
    auto engine = setup.start();
    std::vector<std::thread> callers;
    for (int64_t caller = 0; caller < 3; ++caller) {
      const uint64_t key = random.word();
      callers.emplace_back([&engine, key, caller] {
        Random own(key);
        for (int64_t n = 0; n < 10; ++n) {
          const int64_t id = caller * 100 + n;
          engine->submit(id, request(own.between(1, 300), own.between(1, 50)));
          if (own.between(0, 2) == 0) engine->cancel(id);
          if (own.between(0, 2) == 0) engine->set_thinking_budget(id, 3);
          if (own.between(0, 3) == 0) (void)engine->stats();
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    if (i % 2) std::this_thread::sleep_for(std::chrono::microseconds(random.between(0, 3000)));
    engine.reset();
    for (int64_t id = 0; id < 300; ++id) {
      if (id % 100 < 10) CHECK(setup.inbox.finished(id));
    }
  }
}

// The engine thread sleeps when there is nothing to do, and a lone sequence costs little besides its forward pass.
void overhead() {
  Setup setup;
  setup.backend->script.next = [](const std::vector<int32_t>&, int32_t) { return 5; };
  Driver driver(setup.model, setup.backend, setup.options);
  setup.backend->script.before_run = nullptr;
  driver.submit(1, request(2, 1000));
  double forward = 0;
  const auto begin = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point started;
  setup.backend->script.before_run = [&](const StepBatch&) { started = std::chrono::steady_clock::now(); };
  setup.backend->script.after_row = [&](int64_t, const std::vector<int32_t>&, float*) {
    forward += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - started).count();
  };
  driver.run();
  const double total = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
  std::printf("engine without forward pass: %.2f us a token\n", (total - forward) / 1000);
  CHECK(driver.results[1].ids.size() == 1000);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  refuses_requests();
  refuses_options();
  step_failures();
  spoiled_row();
  cancel_is_prompt();
  closing();
  busy();
  destruction(random, 20);
  overhead();
  return run.finish();
}
