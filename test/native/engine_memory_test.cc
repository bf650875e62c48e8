// The threaded engine when memory runs out: every n-th allocation between submit and the last output fails. The request
// is refused or ends with OUT_OF_MEMORY or succeeds; the others end too, the engine goes on and loses no block.

#include <thread>

#include "engine_harness.h"
#include "failing_allocations.h"
#include "scripted_backend.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr int32_t kVocab = 100;
constexpr int kRequests = 3;

// What a request came to, gathered without allocating: the sink runs while allocations fail.
struct Outcome {
  std::atomic<bool> finished = false;
  bool out_of_memory = false, failed = false;
  int64_t tokens = 0, sum = 0;
};

struct Bench {
  std::shared_ptr<ScriptedBackend> backend = std::make_shared<ScriptedBackend>();
  Outcome outcomes[kRequests];
  std::unique_ptr<Engine> engine;

  Bench() {
    ModelConfig config = tiny_config();
    config.vocab = kVocab, config.native_window = 4096;
    const auto model = make_tiny_model(config, 1, *backend);
    backend->script.next = [](const std::vector<int32_t>& tokens, int32_t table) {
      return hashed_next(tokens, table, kVocab);
    };
    EngineOptions options;
    options.context_length = 1024;
    options.kv_cache_bytes = 64 * kBlockSize * 4;
    options.prefill_chunk = 32;
    engine = Engine::create(model, backend, options, [this](std::vector<RequestOutput>&& outputs) {
      for (const RequestOutput& output : outputs) take(output);
    });
  }

  void take(const RequestOutput& output) {
    Outcome& out = outcomes[output.request_id % kRequests];
    for (const OutputToken& token : output.tokens) out.sum = out.sum * 31 + token.id, ++out.tokens;
    if (!output.finished) return;
    out.out_of_memory = output.error_code == "OUT_OF_MEMORY";
    out.failed = output.finish_reason == FinishReason::kError;
    out.finished = true;
  }

  // Submits the requests while allocation `failing` fails and waits for all. Requests are made before, with a prompt
  // that no earlier run has left in the cache.
  int64_t run(int64_t failing, int32_t salt) {
    std::vector<Request> requests(kRequests);
    for (int i = 0; i < kRequests; ++i) {
      outcomes[i].finished = false, outcomes[i].tokens = 0, outcomes[i].sum = 0;
      requests[i].prompt.assign(90, 5 + i);
      requests[i].prompt[0] = salt % kVocab, requests[i].prompt[1] = salt / kVocab;
      requests[i].max_tokens = 12;
      requests[i].sampling.temperature = 0;
      requests[i].speculation.max_draft = i == 1 ? 8 : 0;
    }
    allocations = 0, failing_allocation = failing, count_allocations = true;
    for (int i = 0; i < kRequests; ++i) {
      try {
        engine->submit(next_id_ * kRequests + i, std::move(requests[i]));
      } catch (const std::bad_alloc&) {
        outcomes[i].out_of_memory = outcomes[i].failed = outcomes[i].finished = true;
      }
    }
    bool ended = true;  // checked below: a check's message allocates
    for (const Outcome& outcome : outcomes) {
      for (int waited = 0; !outcome.finished && waited < 20000; ++waited) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      ended = ended && outcome.finished;
    }
    count_allocations = false;
    CHECK_MSG(ended, "a request never ended, allocation " + std::to_string(failing));
    ++next_id_;
    return allocations;
  }

  void check_idle() const {
    for (int i = 0; i < 5000 && engine->stats().running + engine->stats().waiting > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const EngineStats s = engine->stats();
    CHECK(s.running == 0 && s.waiting == 0 && s.free_blocks + s.cached_blocks == s.total_blocks);
  }

 private:
  int64_t next_id_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Bench bench;
  const int64_t n_allocations = bench.run(-1, 1);
  CHECK(n_allocations > 20);
  int64_t refused = 0;
  int32_t salt = 2;
  for (int64_t n = 0; n < n_allocations; ++n) {
    bench.run(n, salt);
    int64_t sums[kRequests];
    for (int i = 0; i < kRequests; ++i) {
      const Outcome& outcome = bench.outcomes[i];
      CHECK_MSG(!outcome.failed || outcome.out_of_memory, "allocation " + std::to_string(n));
      refused += outcome.out_of_memory;
      sums[i] = outcome.out_of_memory ? -1 : outcome.sum;
    }
    bench.check_idle();
    // The same requests afterwards all succeed, with the tokens of those that had succeeded.
    bench.run(-1, salt++);
    for (int i = 0; i < kRequests; ++i) {
      CHECK(!bench.outcomes[i].failed && bench.outcomes[i].tokens == 12);
      CHECK(sums[i] == -1 || sums[i] == bench.outcomes[i].sum);
    }
  }
  CHECK(refused > 0);
  return run.finish();
}
