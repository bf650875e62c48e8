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

inline bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// Empty when `got` says what `want` says, a cancelled request as far as it came; else the first difference.
inline std::string difference(const Collected& got, const Collected& want) {
  const bool whole = got.last.finish_reason != FinishReason::kAborted;
  for (size_t i = 0; i < std::min(got.ids.size(), want.ids.size()); ++i) {
    const std::string at = " of token " + std::to_string(i);
    if (got.ids[i] != want.ids[i] || got.segments[i] != want.segments[i] || got.forced[i] != want.forced[i])
      return "id" + at;
    if (!same_bits(got.logprobs[i].logprob, want.logprobs[i].logprob)) return "log-probability" + at;
    for (size_t t = 0; t < want.logprobs[i].top.size(); ++t) {
      if (got.logprobs[i].top[t].first != want.logprobs[i].top[t].first) return "alternative" + at;
      if (!same_bits(got.logprobs[i].top[t].second, want.logprobs[i].top[t].second)) return "alternative's value" + at;
    }
  }
  if (got.logprobs.size() != got.ids.size()) return "number of log-probabilities";
  if (got.ids.size() > want.ids.size() || (whole && got.ids.size() != want.ids.size())) {
    return "length " + std::to_string(got.ids.size()) + " for " + std::to_string(want.ids.size());
  }
  if (!whole) return "";
  if (got.last.values.size() != want.last.values.size()) return "number of values";
  for (size_t i = 0; i < want.last.values.size(); ++i) {
    if (!same_bits(got.last.values[i], want.last.values[i])) return "value " + std::to_string(i);
  }
  const bool ends_alike = got.last.finish_reason == want.last.finish_reason &&
                          got.last.thinking_stop == want.last.thinking_stop &&
                          got.last.stop_index == want.last.stop_index && got.last.trim_bytes == want.last.trim_bytes;
  return ends_alike ? "" : "ending";
}

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
