#include <string>

#include "core/status.h"
#include "engine/prompt_lookup.h"
#include "engine/segment_machine.h"
#include "engine/step_loop.h"

namespace qwen3 {
namespace {

void check_ids(const std::vector<int32_t>& ids, int64_t vocab, const char* field) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    throw Error(ErrorCode::kInvalidArgument,
                std::string(field) + "[" + std::to_string(i) + "] must be a token id from 0 to " +
                    std::to_string(vocab - 1) + ", received " + std::to_string(ids[i]),
                field);
  }
}

}  // namespace

void validate_request(const Request& request, int64_t vocab, int64_t context_length, int64_t pool_tokens) {
  if (request.prompt.empty())
    throw Error(ErrorCode::kInvalidArgument, "the prompt must hold at least one token", "prompt");
  check_ids(request.prompt, vocab, "prompt");
  check_ids(request.eos, vocab, "eos");
  if (request.max_tokens < -1 || request.max_tokens == 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "maxTokens must be 1 or more, or -1 for the remaining context, received " + std::to_string(request.max_tokens),
        "maxTokens");
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) throw Error(ErrorCode::kInvalidArgument, "a stop string must not be empty", "stop");
  }
  if (request.want_prompt_logits && request.want_score) {
    throw Error(ErrorCode::kInvalidArgument, "a request asks for logits or for scores, not for both", "mode");
  }
  validate_sampling(request.sampling, vocab);
  SegmentMachine::validate(request.segments, vocab);
  PromptLookup::validate(request.speculation);

  const bool generates = !request.want_prompt_logits && !request.want_score;
  const int64_t needed = static_cast<int64_t>(request.prompt.size()) + (generates ? 1 : 0);
  const std::string prompt = "the prompt has " + std::to_string(request.prompt.size()) + " tokens";
  if (needed > context_length) {
    throw Error(ErrorCode::kContextOverflow,
                prompt + (generates ? " and leaves no room for an answer in" : " and does not fit in") +
                    " a context of " + std::to_string(context_length) +
                    "; shorten it or load the model with a larger contextLength",
                "prompt");
  }
  if (needed > pool_tokens) {
    throw Error(ErrorCode::kOutOfMemory,
                prompt + " but the KV cache holds only " + std::to_string(pool_tokens) +
                    "; shorten it or load the model with larger kvCacheBytes",
                "kvCacheBytes");
  }
}

}  // namespace qwen3
