#include "engine/sequence.h"

#include <algorithm>
#include <utility>

namespace qwen3 {

Sequence::Sequence(int64_t request_id, Request&& request, const TokenTable& table, double submitted_ms)
    : request_(std::move(request)),
      id(request_id),
      tokens(std::move(request_.prompt)),
      prompt_tokens(static_cast<int64_t>(tokens.size())),
      machine(request_.segments, table),
      counts(request_.sampling, tokens),
      prefilled(prompt_tokens),
      table_(&table),
      stop_(request_.stop),
      submitted_ms_(submitted_ms) {
  output_.request_id = id;
  usage.prompt_tokens = prompt_tokens;
  if (generates() && request_.speculation.max_draft > 0) lookup.emplace(request_.speculation, tokens);
}

bool Sequence::is_eos(int32_t token) const {
  return !request_.ignore_eos && std::find(request_.eos.begin(), request_.eos.end(), token) != request_.eos.end();
}

void Sequence::count(const OutputToken& token) {
  if (token.forced) {
    ++usage.forced_tokens;
  } else if (token.segment == Segment::kAnswer) {
    ++usage.answer_tokens;
  } else if (token.segment == Segment::kToolCall) {
    ++usage.tool_call_tokens;
  } else {
    ++usage.thinking_tokens;
  }
}

bool Sequence::append(OutputToken token, TokenLogprob&& logprob) {
  tokens.push_back(token.id);
  if (token.forced) {
    prefilled = size();
  } else {
    counts.add_generated(token.id);
  }
  if (lookup) lookup->push(tokens, !token.forced);
  count(token);
  output_.tokens.push_back(token);
  if (request_.sampling.top_logprobs >= 0) output_.logprobs.push_back(std::move(logprob));
  held_ = 0;
  if (!stop_.active()) return false;
  if (token.segment != Segment::kAnswer) {
    stop_.reset();
    run_tokens_ = 0;
    return false;
  }
  ++run_tokens_;
  if (stop_.push((*table_)[token.id])) {
    output_.stop_index = stop_.index();
    output_.trim_bytes = stop_.trim_bytes();
    return true;
  }
  hold(stop_.held_bytes());
  return false;
}

// Holds back the fewest newest answer tokens that cover `bytes`.
void Sequence::hold(int64_t bytes) {
  while (bytes > 0 && held_ < run_tokens_) {
    ++held_;
    bytes -=
        static_cast<int64_t>((*table_)[output_.tokens[output_.tokens.size() - static_cast<size_t>(held_)].id].size());
  }
}

RequestOutput Sequence::take_output() {
  RequestOutput out;
  out.request_id = id;
  const auto n = static_cast<std::ptrdiff_t>(output_.tokens.size()) - held_;
  out.tokens.assign(output_.tokens.begin(), output_.tokens.begin() + n);
  output_.tokens.erase(output_.tokens.begin(), output_.tokens.begin() + n);
  if (!output_.logprobs.empty()) {
    out.logprobs.assign(std::make_move_iterator(output_.logprobs.begin()),
                        std::make_move_iterator(output_.logprobs.begin() + n));
    output_.logprobs.erase(output_.logprobs.begin(), output_.logprobs.begin() + n);
  }
  return out;
}

RequestOutput Sequence::finish(FinishReason reason, double now_ms) {
  RequestOutput out = std::move(output_);
  out.request_id = id;
  out.finished = true;
  out.finish_reason = reason;
  out.thinking_stop = machine.stop();
  out.values = std::move(values);
  usage.queue_ms = (first_step_ms < 0 ? now_ms : first_step_ms) - submitted_ms_;
  if (first_step_ms >= 0) usage.prefill_ms = (first_token_ms < 0 ? now_ms : first_token_ms) - first_step_ms;
  if (first_token_ms >= 0) {
    usage.first_token_ms = first_token_ms - submitted_ms_;
    usage.decode_ms = now_ms - first_token_ms;
  }
  out.usage = usage;
  return out;
}

}  // namespace qwen3
