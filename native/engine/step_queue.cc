// Steps whose tokens the device draws (ops/backend.h, Executable::samples). One is queued and, while the device works
// on it, the next: its input tokens are whatever the first one draws. The host takes tokens one step behind; where they
// end or cut a sequence, what the queued step draws for it is dropped, and the slots that it wrote are written over.

#include <algorithm>
#include <new>
#include <utility>

#include "engine/step_loop.h"

namespace qwen3 {

// Plans the next step, if there is one, and queues it, or runs it and takes its tokens.
void StepLoop::start_step() {
  rescale_outgrown();
  const StepPlan& plan = scheduler_.plan(cost_);
  if (plan.entries.empty()) return;
  const double begin = clock_ms_();
  for (const PlanEntry& entry : plan.entries) {
    if (entry.sequence->first_step_ms < 0) entry.sequence->first_step_ms = begin;
  }
  try {
    if (parts_.executable->samples() && sampled_there(plan, false)) {
      queue_step(plan);
      return;
    }
    const size_t wanted = plan.logits_rows.size() * static_cast<size_t>(vocab_);
    if (logits_.size() < wanted) logits_.resize(wanted);
    parts_.executable->run(plan.batch(), *parts_.cache, logits_.data());
  } catch (const Error& error) {
    return refuse_step(plan, error);
  } catch (const std::bad_alloc&) {
    return fail_step(plan, error_code_name(ErrorCode::kOutOfMemory), "memory ran out in a step of the model", "");
  } catch (const std::exception& error) {
    return fail_step(plan, error_code_name(ErrorCode::kInternal), error.what(), "");
  }
  ++steps_;
  const double now = clock_ms_();
  if (plan.decodes_only) cost_.observe(static_cast<int64_t>(plan.tokens.size()), now - begin);
  draw_rows(plan);
  take_entries(plan, now);
}

// Whether every row of logits of a step can be drawn on the device; how, into sampling_. `ahead`: a token of each
// sequence is not known yet.
bool StepLoop::sampled_there(const StepPlan& plan, bool ahead) {
  sampling_.clear(), adjustments_.clear(), adjusted_.clear();
  for (const PlanEntry& entry : plan.entries) {
    if (entry.n_logits > 0 && !sample_entry(entry, ahead)) return false;
  }
  for (size_t i = 0; i < sampling_.size(); ++i) {
    const auto [begin, end] = adjusted_[i];
    sampling_[i].adjustments = std::span<const LogitAdjustment>(adjustments_).subspan(begin, end - begin);
    if (sampling_[i].top_logprobs >= 0 && !parts_.executable->gives_logprobs(sampling_[i])) return false;
  }
  return true;
}

bool StepLoop::sample_entry(const PlanEntry& entry, bool ahead) {
  const Sequence& s = *entry.sequence;
  const SamplingParams& p = s.request().sampling;
  if (!s.generates()) return false;
  // What penalties see and what is banned may change with each token.
  if (entry.n_draft > 0 && s.counts.active()) return false;
  if ((entry.n_draft > 0 || ahead) && s.machine.bans_empty_answer()) return false;
  find_banned(s, banned_);
  const size_t begin = adjustments_.size();
  if (!s.counts.adjustments(p, banned_, adjustments_)) return false;
  RowSampling row{p.temperature,
                  p.top_p,
                  p.min_p,
                  p.top_k,
                  p.presence_penalty,
                  p.frequency_penalty,
                  p.repetition_penalty,
                  p.seed,
                  0,
                  p.choice,
                  ahead && s.counts.active(),
                  p.top_logprobs,
                  {}};
  for (int32_t i = 0; i < entry.n_logits; ++i) {
    row.position = static_cast<uint64_t>(s.size() + i + (ahead ? 1 : 0));
    sampling_.push_back(row);
    adjusted_.emplace_back(begin, adjustments_.size());
  }
  return true;
}

void StepLoop::queue_step(const StepPlan& plan) {
  const bool logprobs = std::ranges::any_of(sampling_, [](const RowSampling& row) { return row.top_logprobs >= 0; });
  QueuedStep step{plan, clock_ms_(), logprobs};
  parts_.executable->enqueue(plan.batch(), *parts_.cache, sampling_);
  queue_.push_back(std::move(step));
}

// Another step may be queued when it is the same whatever the queued one draws.
void StepLoop::run_ahead() {
  if (queue_.size() != 1 || !scheduler_.plan_ahead(queue_.front().plan, ahead_) || !sampled_there(ahead_, true)) return;
  for (const PlanEntry& entry : ahead_.entries) {
    if (rope_.outgrown(entry.sequence->rope_table, entry.sequence->size() + 1)) return;
  }
  try {
    queue_step(ahead_);
  } catch (const Error& error) {
    // Without memory for it the step waits until it is its turn, and who gives way is decided then.
    if (error.code() == ErrorCode::kOutOfMemory) return;
    fail_queue(error_code_name(error.code()), error.what(), error.subject());
  }
}

void StepLoop::collect_step() {
  const QueuedStep step = std::move(queue_.front());
  queue_.pop_front();
  drawn_.resize(step.plan.logits_rows.size());
  drawn_logprobs_.clear();
  device_logprobs_.resize(step.logprobs ? drawn_.size() : 0);
  try {
    parts_.executable->collect(drawn_, device_logprobs_);
    take_logprobs(step.plan);
  } catch (const std::exception& failure) {
    const auto* const error = dynamic_cast<const Error*>(&failure);
    const std::string code = error_code_name(error ? error->code() : ErrorCode::kInternal);
    const std::string subject = error ? error->subject() : "";
    fail_step(step.plan, code, failure.what(), subject);
    return fail_queue(code, failure.what(), subject);
  }
  ++steps_;
  const double now = clock_ms_();
  if (step.plan.decodes_only) {
    cost_.observe(static_cast<int64_t>(step.plan.tokens.size()), now - std::max(step.begin, taken_ms_));
  }
  taken_ms_ = now;
  take_entries(step.plan, now);
}

// What the device found, as the host's sampler has it.
void StepLoop::take_logprobs(const StepPlan& plan) {
  if (device_logprobs_.empty()) return;
  drawn_logprobs_.resize(drawn_.size());
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.sequence || entry.sequence->request().sampling.top_logprobs < 0) continue;
    for (int32_t i = 0; i < entry.n_logits; ++i) {
      const auto row = static_cast<size_t>(entry.first_logit + i);
      const RowLogprobs& found = device_logprobs_[row];
      if (drawn_[row] < 0) continue;  // nothing was written
      TokenLogprob& out = drawn_logprobs_[row];
      out.logprob = found.chosen;
      for (int32_t j = 0; j < found.n; ++j) out.top.emplace_back(found.ids[j], found.values[j]);
    }
  }
}

void StepLoop::fail_queue(const std::string& code, const std::string& message, const std::string& subject) {
  const std::deque<QueuedStep> queue = std::exchange(queue_, {});
  for (const QueuedStep& step : queue) fail_step(step.plan, code, message, subject);
}

void StepLoop::drop_queued(const Sequence& s) {
  for (QueuedStep& step : queue_) {
    for (PlanEntry& entry : step.plan.entries) {
      if (entry.sequence == &s) entry.sequence = nullptr;
    }
  }
}

}  // namespace qwen3
