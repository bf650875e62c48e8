#include "engine/segment_machine.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/status.h"

namespace qwen3 {
namespace {

// Kept for the answer when the plan leaves it open: an eighth of what can be generated, up to this many tokens.
constexpr int64_t kMaxAutomaticReserve = 256;

[[noreturn]] void refuse(const std::string& message, const char* field) {
  throw Error(ErrorCode::kInvalidArgument, message, field);
}

int64_t closing_tail(const SegmentPlan& plan) {
  const auto last = std::find(plan.wrap_up.rbegin(), plan.wrap_up.rend(), plan.think_close);
  return last == plan.wrap_up.rend() ? 0 : last - plan.wrap_up.rbegin() + 1;
}

}  // namespace

void SegmentMachine::validate(const SegmentPlan& plan, int64_t vocab) {
  const auto check_id = [&](int32_t id, const char* field) {
    if (id < -1 || id >= vocab) {
      refuse(std::string(field) + " must be a token id below " + std::to_string(vocab) + " or -1, received " +
                 std::to_string(id),
             field);
    }
  };
  check_id(plan.think_open, "segments.thinkOpen");
  check_id(plan.think_close, "segments.thinkClose");
  check_id(plan.tool_open, "segments.toolOpen");
  check_id(plan.tool_close, "segments.toolClose");
  for (const int32_t id : plan.wrap_up) {
    if (id < 0) refuse("the wrap-up holds a negative token id", "segments.wrapUp");
    check_id(id, "segments.wrapUp");
  }
  if (plan.budget < -1) refuse("the thinking budget must be -1 (unlimited) or more", "thinkingBudget");
  if (plan.deadline_ms < -1) refuse("the thinking deadline must be -1 (none) or more", "thinkingDeadlineMs");
  if (plan.answer_reserve < -1) refuse("the answer reserve must be -1 (automatic) or more", "answerReserve");
  if (!plan.can_think) {
    if (plan.starts_in_think)
      refuse("a prompt cannot end inside thinking when there is none", "segments.startsInThink");
    return;
  }
  if (plan.think_close < 0) refuse("thinking needs the id of the tag that closes it", "segments.thinkClose");
  if (plan.think_open < 0 && !plan.starts_in_think) {
    refuse("thinking needs the id of the tag that opens it", "segments.thinkOpen");
  }
  if (plan.think_open == plan.think_close) refuse("the tags of thinking must differ", "segments.thinkOpen");
  if (!plan.wrap_up.empty() && closing_tail(plan) == 0) {
    refuse("the wrap-up must contain the tag that closes thinking", "segments.wrapUp");
  }
}

SegmentMachine::SegmentMachine(const SegmentPlan& plan, const TokenTable& table)
    : plan_(&plan), table_(&table), budget_(plan.budget), short_closing_(closing_tail(plan)) {}

SegmentMachine::Close SegmentMachine::begin(int64_t remaining) {
  reserve_ = plan_->answer_reserve;
  if (reserve_ < 0) reserve_ = std::max<int64_t>(1, std::min(kMaxAutomaticReserve, remaining / 8));
  if (!plan_->can_think) {
    state_ = State::kAnswer;
    return Close::kOpen;
  }
  if (!plan_->starts_in_think) return Close::kOpen;
  return open_think(0, remaining);
}

// Thinking begins, or goes on, and may have to end at once. The whole wrap-up is used when what remains lets a thought
// of one token, the wrap-up and the reserve fit.
SegmentMachine::Close SegmentMachine::open_think(double now_ms, int64_t remaining) {
  state_ = State::kThink;
  opened_ = true;
  const int64_t full = static_cast<int64_t>(forced(Close::kFull).size()) + reserve_;
  closing_at_ = remaining > full ? full : static_cast<int64_t>(forced(Close::kShort).size()) + reserve_;
  if (reserve_ == 0) closing_at_ = -1;
  if (budget_ >= 0 && thought_ >= budget_) return close_now(ThinkingStop::kBudget, remaining);
  return must_close(now_ms, remaining);
}

// What may end thinking at any token.
SegmentMachine::Close SegmentMachine::must_close(double now_ms, int64_t remaining) {
  if (end_requested_) return close_now(ThinkingStop::kRequested, remaining);
  if (plan_->deadline_ms >= 0 && now_ms >= static_cast<double>(plan_->deadline_ms)) {
    return close_now(ThinkingStop::kDeadline, remaining);
  }
  return remaining <= closing_at_ ? close_now(ThinkingStop::kReserve, remaining) : Close::kOpen;
}

std::span<const int32_t> SegmentMachine::forced(Close close) const {
  if (close == Close::kOpen) return {};
  std::span<const int32_t> ids = plan_->wrap_up;
  if (ids.empty()) {
    ids = {&plan_->think_close, 1};
  } else if (close == Close::kShort) {
    ids = ids.last(short_closing_);
  }
  return ids.first(std::min<size_t>(ids.size(), room_));
}

// Without room for a token after </think> a closing in favour of the answer is pointless, and thinking ends unfinished
// with the request; a limit of thinking is kept all the same, with as much of the closing as fits.
SegmentMachine::Close SegmentMachine::close_now(ThinkingStop why, int64_t remaining) {
  const int64_t full = static_cast<int64_t>(forced(Close::kFull).size());
  const int64_t brief = static_cast<int64_t>(forced(Close::kShort).size());
  const bool for_answer = why == ThinkingStop::kReserve || why == ThinkingStop::kNatural;
  if (for_answer && remaining < brief + 1) return Close::kOpen;
  state_ = State::kClosed;
  stop_ = why;
  forced_closed_ = true;
  answer_tokens_ = 0;
  if (why != ThinkingStop::kNatural && remaining >= full + std::max<int64_t>(reserve_, 1)) return Close::kFull;
  room_ = remaining;
  return Close::kShort;
}

SegmentMachine::Verdict SegmentMachine::push(int32_t token, bool ends, double now_ms, int64_t remaining) {
  Verdict verdict;
  if (state_ == State::kThink) {
    if (token == plan_->think_close) {
      verdict.segment = Segment::kClosing;
      state_ = State::kClosed;
      stop_ = ThinkingStop::kNatural;
    } else if (ends) {
      verdict.segment = Segment::kThink;
      verdict.close = close_now(ThinkingStop::kNatural, remaining + 1);
      verdict.drop = verdict.close != Close::kOpen;
    } else {
      verdict.segment = Segment::kThink;
      verdict.close = think(token, now_ms, remaining);
    }
    return verdict;
  }
  const bool opens = plan_->can_think && token == plan_->think_open && state_ != State::kToolCall && !forced_closed_;
  if (opens && !ends) {
    verdict.segment = Segment::kThink;
    verdict.close = open_think(now_ms, remaining);
    return verdict;
  }
  verdict.segment = answer(token);
  return verdict;
}

SegmentMachine::Close SegmentMachine::think(int32_t token, double now_ms, int64_t remaining) {
  if (token != plan_->think_open) ++thought_;
  remember_tail((*table_)[token]);
  const bool looped = plan_->loop_breaker && loop_.push(token);
  const bool at_end = ends_line_or_sentence({tail_, static_cast<size_t>(tail_bytes_)});
  if (at_end) ++ends_;
  if (budget_ >= 0 && (thought_ >= budget_ || (at_end && in_landing())))
    return close_now(ThinkingStop::kBudget, remaining);
  if (looped) return close_now(ThinkingStop::kLoop, remaining);
  return must_close(now_ms, remaining);
}

void SegmentMachine::remember_tail(std::string_view bytes) {
  if (bytes.empty()) return;
  const int32_t fresh = static_cast<int32_t>(std::min<size_t>(bytes.size(), sizeof tail_));
  const int32_t kept = std::min<int32_t>(tail_bytes_, static_cast<int32_t>(sizeof tail_) - fresh);
  std::memmove(tail_, tail_ + tail_bytes_ - kept, kept);
  std::memcpy(tail_ + kept, bytes.data() + bytes.size() - fresh, fresh);
  tail_bytes_ = kept + fresh;
}

bool SegmentMachine::in_landing() const {
  const int64_t left = budget_ - thought_;
  // While their mean length is left, another line or sentence fits as a rule: going on then uses the budget better, and
  // a thought that is about to end by itself does so.
  return plan_->soft_landing && left <= budget_ / 10 && left * ends_ < thought_;
}

Segment SegmentMachine::answer(int32_t token) {
  if (state_ == State::kToolCall) {
    if (token == plan_->tool_close) state_ = State::kAnswer;
    return Segment::kToolCall;
  }
  if (plan_->can_think && (token == plan_->think_open || token == plan_->think_close)) return Segment::kClosing;
  if (plan_->tool_close >= 0 && token == plan_->tool_close) return Segment::kClosing;
  if (plan_->tool_open >= 0 && token == plan_->tool_open) {
    state_ = State::kToolCall;
    ++answer_tokens_;
    return Segment::kToolCall;
  }
  if (state_ == State::kClosed && is_whitespace((*table_)[token])) return Segment::kClosing;
  state_ = State::kAnswer;
  ++answer_tokens_;
  return Segment::kAnswer;
}

Segment SegmentMachine::segment() const {
  if (state_ == State::kThink) return Segment::kThink;
  return state_ == State::kToolCall ? Segment::kToolCall : Segment::kAnswer;
}

SegmentMachine::Close SegmentMachine::end_thinking(int64_t remaining) {
  if (state_ == State::kThink) return close_now(ThinkingStop::kRequested, remaining);
  if (!opened_) end_requested_ = true;
  return Close::kOpen;
}

SegmentMachine::Close SegmentMachine::set_budget(int64_t tokens, int64_t remaining) {
  budget_ = tokens;
  if (state_ != State::kThink || budget_ < 0 || thought_ < budget_) return Close::kOpen;
  return close_now(ThinkingStop::kBudget, remaining);
}

}  // namespace qwen3
