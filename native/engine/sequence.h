#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/prompt_lookup.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/segment_machine.h"
#include "engine/stop_matcher.h"
#include "engine/token_table.h"

namespace qwen3 {

// A request while it is in the engine. The scheduler moves its blocks, the step loop its tokens.
class Sequence {
  Request request_;  // its prompt is moved to `tokens`; first, because the members below are made from it

 public:
  Sequence(int64_t id, Request&& request, const TokenTable& table, double submitted_ms);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  const Request& request() const { return request_; }
  bool generates() const { return !request_.want_prompt_logits && !request_.want_score; }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t remaining() const { return limit - size(); }
  bool is_eos(int32_t token) const;  // ends the generation

  // Appends a token to the sequence and to the output that will be sent. True when it completes a stop string.
  bool append(OutputToken token, TokenLogprob&& logprob);
  // What can be sent now: everything but tokens that may belong to a stop string. Empty tokens when there is nothing.
  RequestOutput take_output();
  bool has_output() const { return static_cast<int64_t>(output_.tokens.size()) > held_; }
  // The last output, with all tokens that were held back.
  RequestOutput finish(FinishReason reason, double now_ms);

  const int64_t id;
  uint64_t arrival = 0;         // order of submission; the scheduler's order
  std::vector<int32_t> tokens;  // prompt, then generated ones
  const int64_t prompt_tokens;
  int64_t limit = 0;  // most tokens, prompt and generated
  SegmentMachine machine;
  TokenCounts counts;
  std::optional<PromptLookup> lookup;  // when the request speculates

  // In the cache: keys and values of tokens[0, computed) lie in `blocks`; the first `recorded` blocks are in the pool's
  // tree.
  std::vector<int32_t> blocks;
  int64_t computed = 0, recorded = 0;
  int32_t rope_table = 0;
  // Positions before this one are computed many at a time (the prompt, forced tokens, what a restart computes again),
  // those from it on one by one as they are generated: StepSequence::decode follows from it, and so never from how a
  // prompt was cut into chunks.
  int64_t prefilled;
  CacheNamespace cache_namespace() const { return {request_.cache_namespace, rope_table}; }

  Usage usage;
  std::vector<float> values;  // logits or scores so far
  double first_step_ms = -1, first_token_ms = -1, rescale_begin_ms = -1;
  bool admitted_before = false;  // cached_tokens counts the first admission only

 private:
  void count(const OutputToken& token);
  void hold(int64_t bytes);

  const TokenTable* table_;
  StopMatcher stop_;
  RequestOutput output_;
  int64_t held_ = 0;        // tokens at the end of output_ that may belong to a stop string
  int64_t run_tokens_ = 0;  // answer tokens since the last other one
  double submitted_ms_;
};

}  // namespace qwen3
