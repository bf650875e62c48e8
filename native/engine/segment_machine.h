#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/loop_detector.h"
#include "engine/request.h"
#include "engine/token_table.h"

namespace qwen3 {

// Knows, by token id, which part of the output every token belongs to, and decides when thinking ends:
//   prompt -> [think -> closing] -> answer <-> tool_call -> done
// Pure: no model, no clock, no randomness; the same calls give the same verdicts.
//
// Rules where a model leaves the path:
// - <think> counts as an opening as the first token and again after a natural </think> (the thought goes on under the
// same
//   budget). After a forced closing it is a stray tag. A stray tag changes nothing and is a closing token, so that no
//   tag is ever answer text: </think> outside thinking, <think> inside it, <think> in a forced answer.
// - After </think>, tokens of whitespace only are closing too, until the first that is not.
// - An end-of-sequence token inside thinking is dropped and thinking closed in its place, so that an answer follows.
// - Tool tags inside thinking are thinking; </tool_call> without a call is a closing token; everything inside a call,
// tags
//   included, is the call.
class SegmentMachine {
 public:
  // How thinking is to be closed now: not at all, by the whole wrap-up, or by its part from </think> on.
  enum class Close : uint8_t { kOpen, kFull, kShort };
  struct Verdict {
    Segment segment = Segment::kAnswer;
    bool drop = false;           // the token must not be appended: the closing takes its place
    Close close = Close::kOpen;  // append forced(close) now, as Segment::kClosing
  };

  // `plan` must have passed validate() below and outlives the machine; `table` too.
  SegmentMachine(const SegmentPlan& plan, const TokenTable& table);
  // Throws Error(kInvalidArgument, field): tags missing or equal, a wrap_up without think_close, budgets below -1.
  static void validate(const SegmentPlan& plan, int64_t vocab);

  // Before the first token. `remaining`: tokens that may still be generated, from max_tokens and the context; in all
  // calls.
  Close begin(int64_t remaining);
  // One sampled token. `remaining` is counted after it; now_ms is the time since the request's first step; ends: the
  // token would end the generation (and is not ignored).
  Verdict push(int32_t token, bool ends, double now_ms, int64_t remaining);
  // Ends thinking now, or, before it began, as soon as it begins. No effect once it has ended.
  Close end_thinking(int64_t remaining);
  // -1 = unlimited. A budget that is used up already ends thinking now.
  Close set_budget(int64_t tokens, int64_t remaining);

  // The ids to append for a closing; the machine has moved on to the answer already.
  std::span<const int32_t> forced(Close close) const;
  // Whether `token` must not be sampled next: after a forced closing no <think> and, as the first token of the answer,
  // no
  // </think> and no end of sequence (the answer must not be empty).
  bool bans_think_open() const { return forced_closed_; }
  bool bans_empty_answer() const { return forced_closed_ && answer_tokens_ == 0; }

  bool thinking() const { return state_ == State::kThink; }
  // The segment that a token sampled now would have, tags aside.
  Segment segment() const;
  ThinkingStop stop() const { return state_ == State::kThink ? ThinkingStop::kUnfinished : stop_; }
  int64_t thought_tokens() const { return thought_; }  // inside the block, tags not counted
  // Tokens that thinking leaves for the answer, resolved at begin() when the plan says automatic.
  int64_t reserve() const { return reserve_; }

 private:
  enum class State : uint8_t { kStart, kThink, kClosed, kAnswer, kToolCall };
  Close open_think(double now_ms, int64_t remaining);
  Close must_close(double now_ms, int64_t remaining);
  Close think(int32_t token, double now_ms, int64_t remaining);
  Close close_now(ThinkingStop why, int64_t remaining);
  Segment answer(int32_t token);
  // Whether a thought that is at the end of a line or sentence is to end there.
  bool in_landing() const;
  void remember_tail(std::string_view bytes);

  const SegmentPlan* plan_;
  const TokenTable* table_;
  LoopDetector loop_;
  State state_ = State::kStart;
  ThinkingStop stop_ = ThinkingStop::kNone;
  int64_t budget_, thought_ = 0, reserve_ = 0, answer_tokens_ = 0;
  int64_t ends_ = 0;           // of lines and sentences in the thought
  int64_t short_closing_ = 0;  // ids of the wrap-up from </think> on
  int64_t closing_at_ = 0;     // thinking ends when no more than this remains
  int64_t room_ = INT64_MAX;   // tokens that a closing may take
  bool end_requested_ = false, forced_closed_ = false, opened_ = false;
  char tail_[8] = {};  // the last bytes of the thought
  int32_t tail_bytes_ = 0;
};

}  // namespace qwen3
