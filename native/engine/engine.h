#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "model/model.h"

namespace qwen3 {

struct EngineOptions {
  int64_t context_length = 0;  // tokens per sequence; above the native window needs yarn
  int64_t kv_cache_bytes = 0;  // total of the paged pool
  DType kv_dtype = DType::kBF16;
  int32_t max_sequences = 64;  // running at once; more wait in the queue
  // Rows of a step given to prefill; 0: as many as the backend says. Where others decode, at most prefill_beside of
  // them: their next tokens wait for the whole step.
  int32_t prefill_chunk = 0, prefill_beside = 2048;
  enum class Rope : uint8_t { kAuto, kStatic, kNever } rope = Rope::kAuto;
  std::optional<YarnConfig> yarn;  // per sequence under kAuto: a sequence that fits the native window is never scaled
  bool prefix_cache = true;
  // Bytes of every token, for stop strings and line ends: token i is bytes[offsets[i], offsets[i + 1]).
  std::string token_bytes;
  std::vector<uint32_t> token_offsets;
  int32_t max_waiting = 65536;  // queued requests; more are refused with kBusy
  // For tests: a clock in milliseconds instead of the steady one; NaN in every KV slot that was not written yet.
  std::function<double()> clock_ms;
  bool poison_blocks = false;
};

struct EngineStats {
  int64_t running = 0, waiting = 0, total_blocks = 0, free_blocks = 0, cached_blocks = 0, block_bytes = 0,
          weight_bytes = 0;
  int64_t steps = 0, prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0, draft_tokens = 0, accepted_tokens = 0;
  std::vector<int64_t> expert_counts;  // [n_layers * n_experts]
};

// Continuous batching over one Model: owns the paged KV cache, the scheduler and one engine thread. All methods are
// thread safe and return at once. Outputs arrive through `sink` on the engine thread, once per step with work in it.
class Engine {
 public:
  using Sink = std::function<void(std::vector<RequestOutput>&& outputs)>;

  // Throws Error: kInvalidArgument (option at fault), kOutOfMemory when the KV cache does not fit in memory.
  // The sink must not throw. It is not called after the destructor has returned.
  static std::unique_ptr<Engine> create(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend,
                                        const EngineOptions& options, Sink sink);
  virtual ~Engine() = default;  // cancels everything, joins the engine thread

  // `id` is chosen by the caller, unique among the engine's requests, so that it can be registered before the first
  // output arrives. Throws Error: kInvalidArgument (token id beyond the vocabulary, empty prompt, NaN parameters, ...),
  // kContextOverflow (a prompt that leaves no room for a token; both numbers in the message), kOutOfMemory (it fits the
  // context but not the KV cache), kBusy, kClosed.
  virtual void submit(int64_t id, Request request) = 0;
  // The request finishes with kAborted within one step (in prefill too) and its blocks are free. Unknown ids are
  // ignored.
  virtual void cancel(int64_t id) = 0;
  virtual void end_thinking(int64_t id) = 0;  // before thinking has begun: it ends as soon as it begins
  virtual void set_thinking_budget(int64_t id, int64_t tokens) = 0;
  virtual void close() = 0;               // all requests finish with kAborted; later submits throw kClosed
  virtual EngineStats stats() const = 0;  // as of the end of the last step
};

}  // namespace qwen3
