// Tokens that the host draws. Rows of different sequences do not depend on each other, and drawing from one is a
// function of the row, the parameters and the position: who draws it does not matter.

#include <algorithm>
#include <new>
#include <utility>

#include "engine/step_loop.h"

namespace qwen3 {

// What may not be drawn next.
void StepLoop::find_banned(const Sequence& s, std::vector<int32_t>& banned) const {
  banned.clear();
  const SegmentPlan& segments = s.request().segments;
  if (s.machine.bans_think_open() && segments.think_open >= 0) banned.push_back(segments.think_open);
  if (s.machine.bans_empty_answer()) {
    banned.push_back(segments.think_close);
    for (const int32_t id : s.request().eos) {
      if (s.is_eos(id)) banned.push_back(id);
    }
  }
}

// Draws what can be drawn before the tokens are taken: the rows of sequences without drafts, whose second row depends
// on the token of the first. The others, and a row alone, are drawn when they are taken.
void StepLoop::draw_rows(const StepPlan& plan) {
  drawn_.assign(plan.logits_rows.size(), kNotDrawn);
  if (samplers_.size() < 2) return;
  size_t n = 0;
  for (const PlanEntry& entry : plan.entries) {
    const Sequence& s = *entry.sequence;
    if (entry.n_logits != 1 || entry.n_draft > 0 || !s.generates()) continue;
    if (draws_.size() == n) draws_.emplace_back();
    Draw& draw = draws_[n++];
    draw.sequence = &s, draw.row = entry.first_logit;
    find_banned(s, draw.banned);
  }
  if (n < 2) return;
  if (drawn_logprobs_.size() < drawn_.size()) drawn_logprobs_.resize(drawn_.size());
  const size_t n_tasks = std::min(n, samplers_.size());
  parts_.executable->for_each(static_cast<int64_t>(n_tasks), [&](int64_t task) {
    for (size_t i = static_cast<size_t>(task); i < n; i += n_tasks)
      draw_row(draws_[i], samplers_[static_cast<size_t>(task)]);
  });
}

void StepLoop::draw_row(const Draw& draw, Sampler& sampler) {
  const Sequence& s = *draw.sequence;
  const auto row = static_cast<size_t>(draw.row);
  drawn_logprobs_[row] = {};
  try {
    drawn_[row] = sampler.sample(logits_row(draw.row), s.request().sampling, s.counts, draw.banned,
                                 static_cast<uint64_t>(s.size()), &drawn_logprobs_[row]);
  } catch (const std::bad_alloc&) {
    drawn_[row] = kNoMemory;
  } catch (const Error&) {
    drawn_[row] = kBrokenLogits;
  }
}

// The token that was drawn for a row, or kNotDrawn.
int32_t StepLoop::take_drawn(int64_t row, TokenLogprob& logprob) {
  const int32_t token = drawn_[static_cast<size_t>(row)];
  if (token == kNoMemory) throw std::bad_alloc();
  if (token == kBrokenLogits) Sampler::refuse_broken_logits();
  if (token >= 0 && static_cast<size_t>(row) < drawn_logprobs_.size()) {
    logprob = std::exchange(drawn_logprobs_[static_cast<size_t>(row)], {});
  }
  return token;
}

}  // namespace qwen3
