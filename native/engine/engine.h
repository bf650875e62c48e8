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
  int64_t context_length = 0;      // tokens per sequence; above the native window needs yarn
  int64_t kv_cache_bytes = 0;      // total of the paged pool
  DType kv_dtype = DType::kBF16;
  int32_t max_sequences = 64;      // running at once; more wait in the queue
  int32_t prefill_chunk = 512;     // rows of a step given to prefill
  enum class Rope : uint8_t { kAuto, kStatic, kNone } rope = Rope::kAuto;
  std::optional<YarnConfig> yarn;  // per sequence under kAuto: a sequence that fits the native window is never scaled
  bool prefix_cache = true;
  // Bytes of every token, for stop strings and line ends: token i is bytes[offsets[i], offsets[i + 1]).
  std::string token_bytes;
  std::vector<uint32_t> token_offsets;
};

struct EngineStats {
  int64_t running = 0, waiting = 0, total_blocks = 0, free_blocks = 0, cached_blocks = 0, block_bytes = 0, weight_bytes = 0;
  int64_t steps = 0, prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  std::vector<int64_t> expert_counts;  // [n_layers * n_experts]
};

// Continuous batching over one Model: owns the paged KV cache, the scheduler and one engine thread. All methods are
// thread safe and return at once. Outputs arrive through `sink` on the engine thread, once per step with work in it.
class Engine {
 public:
  using Sink = std::function<void(std::vector<RequestOutput>&& outputs)>;

  static std::unique_ptr<Engine> create(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend,
                                        const EngineOptions& options, Sink sink);
  virtual ~Engine() = default;  // cancels everything, joins the engine thread; the sink is not called afterwards

  // Throws Error: kInvalidArgument (token id beyond the vocabulary, empty prompt, NaN parameters, ...), kContextOverflow
  // (both numbers in the message), kClosed. Returns the request's id; its outputs carry it. `id` is chosen by the caller
  // so that the caller can register it before the first output can arrive.
  virtual void submit(int64_t id, Request request) = 0;
  // The request finishes with kAborted within one step (in prefill too) and its blocks are free. Unknown ids are ignored.
  virtual void cancel(int64_t id) = 0;
  virtual void end_thinking(int64_t id) = 0;
  virtual void set_thinking_budget(int64_t id, int64_t tokens) = 0;
  virtual void close() = 0;  // all requests finish with kAborted; later submits throw kClosed
  virtual EngineStats stats() const = 0;
};

}  // namespace qwen3
