#pragma once

// What the engine's tests share: an engine's results gathered by request, and a driver that steps a StepLoop by hand,
// so that schedules are exact and repeatable.

#include <condition_variable>
#include <map>
#include <mutex>

#include "engine/engine.h"
#include "engine/step_loop.h"
#include "testing.h"

namespace qwen3::testing {

// Everything that one request has sent.
struct Collected {
  std::vector<int32_t> ids;
  std::vector<Segment> segments;
  std::vector<bool> forced;
  std::vector<TokenLogprob> logprobs;
  RequestOutput last;  // valid when finished
  int outputs = 0;
  bool finished = false;

  void add(RequestOutput&& output) {
    CHECK(!finished);  // nothing follows the last output
    ++outputs;
    for (const OutputToken& token : output.tokens) {
      ids.push_back(token.id);
      segments.push_back(token.segment);
      forced.push_back(token.forced);
    }
    CHECK(output.logprobs.empty() || output.logprobs.size() == output.tokens.size());
    for (TokenLogprob& logprob : output.logprobs) logprobs.push_back(std::move(logprob));
    finished = output.finished;
    if (finished) last = std::move(output);
  }
  int64_t completion_tokens() const {
    const Usage& u = last.usage;
    return u.thinking_tokens + u.answer_tokens + u.tool_call_tokens + u.forced_tokens;
  }
};

// A StepLoop on a clock that ticks a millisecond a reading.
class Driver {
 public:
  Driver(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend, const EngineOptions& options)
      : vocab(model->config().vocab),
        loop(std::move(model), std::move(backend), options, [this] { return clock += 1; }) {}

  void submit(int64_t id, Request request) {
    validate_request(request, vocab, loop.context_tokens(), loop.context_tokens());
    loop.submit(id, std::move(request), clock);
    results[id];
  }
  void gather() {
    for (RequestOutput& output : loop.take_outputs()) results[output.request_id].add(std::move(output));
  }
  void step() {
    loop.step();
    gather();
  }
  // Until every request has ended.
  void run(int64_t max_steps = 100000) {
    while (!loop.idle() && max_steps-- > 0) step();
    CHECK(loop.idle());
    gather();
  }
  // All blocks are free or cached and the pool agrees with itself.
  void check_idle() {
    loop.pool().check();
    CHECK(loop.pool().available() == loop.pool().total());
  }

  double clock = 0;
  const int64_t vocab;
  StepLoop loop;
  std::map<int64_t, Collected> results;
};

// Gathers what a threaded engine sends.
class Inbox {
 public:
  Engine::Sink sink() {
    return [this](std::vector<RequestOutput>&& outputs) {
      const std::lock_guard lock(mutex_);
      for (RequestOutput& output : outputs) results_[output.request_id].add(std::move(output));
      changed_.notify_all();
    };
  }
  Collected wait(int64_t id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return results_[id].finished; });
    return results_[id];
  }
  // Until the request has sent a token.
  void wait_started(int64_t id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return results_[id].outputs > 0; });
  }
  bool finished(int64_t id) {
    const std::lock_guard lock(mutex_);
    return results_[id].finished;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Collected> results_;
};

inline EngineOptions tiny_options(const Model& model, Backend& backend, int64_t context, int64_t blocks,
                                  DType kv = DType::kF32) {
  EngineOptions options;
  options.context_length = context;
  options.kv_dtype = kv;
  options.kv_cache_bytes = backend.kv_block_bytes(*model.program({}), kv) * blocks;
  options.poison_blocks = true;
  return options;
}

}  // namespace qwen3::testing
