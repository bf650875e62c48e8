#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qwen3 {

// Which part of the output a token belongs to. Decided by token id and by the request's SegmentPlan, never by text.
// <think> is kThink; </think>, the whitespace right after it and stray tags are kClosing (segment_machine.h has the
// rules).
enum class Segment : uint8_t { kPrompt, kThink, kClosing, kAnswer, kToolCall };

// Why a think segment ended.
enum class ThinkingStop : uint8_t { kNone, kNatural, kBudget, kDeadline, kReserve, kLoop, kRequested, kUnfinished };

enum class FinishReason : uint8_t { kStop, kLength, kAborted, kError };

// The segment machine's configuration, from the model's template and the request:
//   prompt -> [think -> closing] -> answer <-> tool_call -> done
struct SegmentPlan {
  bool can_think = false;        // false: think tags are ordinary answer tokens (generate() without a template)
  bool starts_in_think = false;  // the prompt ends inside an open think block (Thinking-2507)
  int32_t think_open = -1, think_close = -1, tool_open = -1, tool_close = -1;  // ids, -1 = the model has none
  // Forced when thinking is cut: the wrap-up sentence, </think> and what follows it, as ids; prefilled as one chunk.
  std::vector<int32_t> wrap_up;
  int64_t budget = -1;       // tokens inside the think block, -1 = unlimited
  int64_t deadline_ms = -1;  // from the first step of this request, -1 = none
  // Tokens of max_tokens and the context kept for the answer; the wrap-up is on top. 0 = none: thinking may use
  // everything up (ThinkingStop::kUnfinished). -1 = automatic: an eighth of what can be generated, at least 1 and at
  // most 256.
  int64_t answer_reserve = -1;
  bool loop_breaker = true;  // end thinking when a cycle of tokens has repeated three times
  bool soft_landing = true;  // within the last tenth of the budget cut at the end of a line or sentence
};

// Exact order on logits of one row: logit bias, repetition / presence / frequency penalties (presence and frequency
// count generated tokens only; repetition counts prompt and generated), temperature, top-k, top-p, min-p.
struct SamplingParams {
  float temperature = 1.0f;  // 0 = greedy
  float top_p = 1.0f;        // (0, 1]
  int32_t top_k = 0;         // 0 = off
  float min_p = 0.0f;
  float presence_penalty = 0, frequency_penalty = 0, repetition_penalty = 1;
  uint64_t seed = 0;  // counter-based: (seed, choice, position)
  int32_t choice = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  int32_t top_logprobs = -1;  // -1 none, 0 chosen token's only, n: that many alternatives (log-softmax of raw logits)
};

// Drafts of a sequence's next tokens, taken from its own text (prompt_lookup.h) and verified in one step with the token
// before them. A draft token stands when it is the token that is chosen at its place: speculation changes no token.
struct Speculation {
  int32_t max_draft = 0;  // most tokens drafted for one step, 0 = no speculation
  int32_t min_ngram = 2, max_ngram = 4;
};

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  SegmentPlan segments;
  int64_t max_tokens = -1;  // of generated tokens (forced ones included), -1 = the remaining context
  Speculation speculation;
  std::vector<int32_t> eos;  // ids that end the generation
  bool ignore_eos = false;
  std::vector<std::string> stop;    // UTF-8 byte strings, matched in the answer segment only
  uint64_t cache_namespace = 0;     // a prefix is only shared within one namespace
  bool want_prompt_logits = false;  // logits(): no generation, logits of the last position
  bool want_score = false;          // score(): no generation, log-probability of each prompt token after the first
};

struct TokenLogprob {
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;
};

struct OutputToken {
  int32_t id = 0;
  Segment segment = Segment::kAnswer;
  bool forced = false;  // wrap-up, not sampled
};

struct Usage {
  int64_t prompt_tokens = 0, cached_tokens = 0, thinking_tokens = 0, answer_tokens = 0, tool_call_tokens = 0,
          forced_tokens = 0;  // the last four sum to the completion's tokens; tags count in their segment
  int64_t draft_tokens = 0, accepted_tokens = 0;  // run as drafts; of these, chosen and kept
  double queue_ms = 0, prefill_ms = 0, first_token_ms = 0, decode_ms = 0, rescale_ms = 0;
};

// What one request produced in one step (or since the host last drained). Tokens that may still turn out to be part of
// a stop string are held back until that is decided.
struct RequestOutput {
  int64_t request_id = 0;
  std::vector<OutputToken> tokens;
  // Parallel to tokens when asked for. A forced token was not chosen: 0 and no alternatives.
  std::vector<TokenLogprob> logprobs;
  bool finished = false;
  FinishReason finish_reason = FinishReason::kStop;
  ThinkingStop thinking_stop = ThinkingStop::kNone;
  int32_t stop_index = -1;    // which stop string matched
  int32_t trim_bytes = 0;     // bytes at the end of the tokens' text that belong to the stop string or lie after it
  std::vector<float> values;  // logits or scores, for want_prompt_logits / want_score
  Usage usage;                // valid when finished
  std::string error_code, error_message, error_subject;  // when finish_reason is kError
};

}  // namespace qwen3
