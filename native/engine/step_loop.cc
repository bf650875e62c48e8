#include "engine/step_loop.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/memory.h"
#include "core/status.h"

namespace qwen3 {
namespace {

[[noreturn]] void refuse(const std::string& message, const char* field) {
  throw Error(ErrorCode::kInvalidArgument, message, field);
}

void check_options(const EngineOptions& o, const ModelConfig& config) {
  if (o.context_length < 1) refuse("contextLength must be positive", "contextLength");
  if (o.max_sequences < 1) refuse("maxSequences must be positive", "maxSequences");
  if (o.prefill_chunk < 0 || o.prefill_beside < 1) refuse("the prefill chunk must be positive", "prefillChunk");
  if (o.rope == EngineOptions::Rope::kStatic && !o.yarn) refuse("rope 'static' needs a yarnFactor", "rope");
  if (o.rope == EngineOptions::Rope::kAuto && !o.yarn && o.context_length > config.native_window) {
    refuse("a contextLength of " + std::to_string(o.context_length) + " is beyond the model's native window of " +
               std::to_string(config.native_window) + " tokens and needs a yarnFactor",
           "contextLength");
  }
}

Scheduler::Options scheduler_options(const EngineOptions& o, int32_t prefill_chunk, const ModelConfig& config) {
  Scheduler::Options out;
  out.max_sequences = o.max_sequences;
  out.prefill_chunk = prefill_chunk, out.prefill_beside = o.prefill_beside;
  out.poison_blocks = o.poison_blocks;
  if (o.rope == EngineOptions::Rope::kAuto && o.yarn) out.unscaled_tokens = config.native_window;
  return out;
}

}  // namespace

int32_t RopePolicy::initial_table(int64_t prompt_tokens, int64_t limit) const {
  if (!has_yarn || mode == EngineOptions::Rope::kNever) return 0;
  if (mode == EngineOptions::Rope::kStatic) return 1;
  return limit > window && prompt_tokens > window - window / 32 ? 1 : 0;
}

bool RopePolicy::outgrown(int32_t table, int64_t tokens) const {
  return mode == EngineOptions::Rope::kAuto && has_yarn && table == 0 && tokens > window;
}

StepLoop::Parts StepLoop::make_parts(const Model& model, Backend& backend, const EngineOptions& options) {
  check_options(options, model.config());
  Parts parts;
  parts.program = model.program(options.rope == EngineOptions::Rope::kNever ? std::nullopt : options.yarn);
  parts.block_bytes = backend.kv_block_bytes(*parts.program, options.kv_dtype);
  const int64_t n_blocks = options.kv_cache_bytes / std::max<int64_t>(parts.block_bytes, 1);
  if (n_blocks < 1 || n_blocks > INT32_MAX / 2) {
    refuse("kvCacheBytes must hold at least one block of 64 tokens, which takes " + std::to_string(parts.block_bytes) +
               " bytes, received " + std::to_string(options.kv_cache_bytes),
           "kvCacheBytes");
  }
  require_memory(n_blocks * parts.block_bytes, "the KV cache", backend.available_memory());
  parts.n_blocks = static_cast<int32_t>(n_blocks);
  parts.cache = backend.create_kv_cache(*parts.program, options.kv_dtype, n_blocks);
  parts.prefill_chunk = options.prefill_chunk > 0 ? options.prefill_chunk : backend.prefill_rows(*parts.program);
  parts.executable = backend.compile(parts.program, model.weights(),
                                     int64_t{options.max_sequences} + parts.prefill_chunk, options.context_length);
  if (parts.executable->samples()) parts.executable->prepare(*parts.cache, options.max_sequences);
  return parts;
}

StepLoop::StepLoop(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend, const EngineOptions& options,
                   std::function<double()> clock_ms)
    : model_(std::move(model)),
      backend_(std::move(backend)),
      clock_ms_(std::move(clock_ms)),
      table_(options.token_bytes, options.token_offsets),
      vocab_(model_->config().vocab),
      parts_(make_parts(*model_, *backend_, options)),
      context_tokens_(std::min(options.context_length, int64_t{parts_.n_blocks} * kBlockSize)),
      rope_{options.rope, options.yarn.has_value(), model_->config().native_window},
      pool_(parts_.n_blocks, options.prefix_cache),
      scheduler_(pool_, *parts_.cache, scheduler_options(options, parts_.prefill_chunk, model_->config())),
      samplers_(static_cast<size_t>(std::min<int64_t>(parts_.executable->host_threads(), options.max_sequences)),
                Sampler(model_->config().vocab)) {
  for (const auto& weight : model_->weights()) weight_bytes_ += static_cast<int64_t>(weight->bytes);
  if (options.poison_blocks) {
    for (int32_t block = 0; block < parts_.n_blocks; ++block) parts_.cache->poison_block(block);
  }
}

Sequence* StepLoop::find(int64_t id) {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

void StepLoop::submit(int64_t id, Request&& request, double submitted_ms) {
  const int64_t max_tokens = request.max_tokens;
  auto owned = std::make_unique<Sequence>(id, std::move(request), table_, submitted_ms);
  Sequence& s = *owned;
  s.limit = s.generates() ? context_tokens_ : s.size();
  if (s.generates() && max_tokens >= 0 && max_tokens < s.limit - s.size()) s.limit = s.size() + max_tokens;
  s.rope_table = rope_.initial_table(s.size(), s.limit);
  sequences_.emplace(id, std::move(owned));
  scheduler_.add(&s);
  if (s.generates()) close_thinking(s, s.machine.begin(s.remaining()));
}

// What is queued of the sequence goes on from other tokens and is dropped.
void StepLoop::append_forced(Sequence& s, SegmentMachine::Close close) {
  if (!s.machine.forced(close).empty()) drop_queued(s);
  for (const int32_t id : s.machine.forced(close)) s.append({id, Segment::kClosing, true}, {});
}

// A closing that the caller asked for, or that the request began with, may have used up what could be generated.
void StepLoop::close_thinking(Sequence& s, SegmentMachine::Close close) {
  append_forced(s, close);
  if (s.generates() && s.remaining() <= 0) finish(s, FinishReason::kLength);
}

void StepLoop::end_thinking(int64_t id) {
  if (Sequence* s = find(id)) close_thinking(*s, s->machine.end_thinking(s->remaining()));
}

void StepLoop::set_thinking_budget(int64_t id, int64_t tokens) {
  if (Sequence* s = find(id)) close_thinking(*s, s->machine.set_budget(tokens, s->remaining()));
}

void StepLoop::finish(Sequence& s, FinishReason reason) {
  drop_queued(s);
  scheduler_.remove(&s, reason != FinishReason::kError);
  prompt_tokens_ += s.usage.prompt_tokens;
  cached_tokens_ += s.usage.cached_tokens;
  outputs_.push_back(s.finish(reason, clock_ms_()));
  sequences_.erase(s.id);
}

void StepLoop::fail(Sequence& s, const std::string& code, const std::string& message, const std::string& subject) {
  finish(s, FinishReason::kError);
  outputs_.back().error_code = code;
  outputs_.back().error_message = message;
  outputs_.back().error_subject = subject;
}

void StepLoop::cancel(int64_t id) {
  if (Sequence* s = find(id)) finish(*s, FinishReason::kAborted);
}

void StepLoop::cancel_all() {
  while (!sequences_.empty()) finish(*sequences_.begin()->second, FinishReason::kAborted);
}

void StepLoop::fail(int64_t id, bool submitted, const char* code, const char* message) {
  if (Sequence* s = find(id)) return fail(*s, code, message, "");
  if (!submitted) return;
  RequestOutput& out = outputs_.emplace_back();
  out.request_id = id;
  out.finished = true;
  out.finish_reason = FinishReason::kError;
  out.error_code = code;
  out.error_message = message;
}

void StepLoop::fail_all(const std::string& code, const std::string& message) {
  while (!sequences_.empty()) fail(*sequences_.begin()->second, code, message, "");
}

std::vector<RequestOutput> StepLoop::take_outputs() {
  return std::exchange(outputs_, {});
}

// A sequence that has grown past the native window gives up its unscaled keys and is prefilled again with scaled ones.
// It queues by its age, and the others go on meanwhile.
void StepLoop::rescale_outgrown() {
  outgrown_.clear();
  for (Sequence* s : scheduler_.running()) {
    if (rope_.outgrown(s->rope_table, s->size())) outgrown_.push_back(s);
  }
  for (Sequence* s : outgrown_) {
    scheduler_.restart(s);
    s->rope_table = 1;
    s->rescale_begin_ms = clock_ms_();
  }
  for (Sequence* s : scheduler_.waiting()) {  // outgrown while it waited: its blocks were given back already
    if (rope_.outgrown(s->rope_table, s->size())) s->rope_table = 1;
  }
}

void StepLoop::step() {
  if (queue_.empty()) start_step();
  run_ahead();
  if (!queue_.empty()) collect_step();
}

// Tokens and verdicts change sequences, but never another entry of this plan.
void StepLoop::take_entries(const StepPlan& plan, double now) {
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.sequence) continue;
    scheduler_.advance(entry.sequence, entry.n_rows);
    take_entry(plan, entry, now);
  }
}

void StepLoop::fail_step(const StepPlan& plan, const std::string& code, const std::string& message,
                         const std::string& subject) {
  for (const PlanEntry& entry : plan.entries) {
    if (entry.sequence) fail(*entry.sequence, code, message, subject);
  }
}

void StepLoop::refuse_step(const StepPlan& plan, const Error& error) {
  const std::string code = error_code_name(error.code());
  if (error.code() != ErrorCode::kOutOfMemory) return fail_step(plan, code, error.what(), error.subject());
  const auto needs_less = [](const PlanEntry& a, const PlanEntry& b) {
    return std::pair(a.n_logits, a.sequence->arrival) < std::pair(b.n_logits, b.sequence->arrival);
  };
  const auto most = std::max_element(plan.entries.begin(), plan.entries.end(), needs_less);
  fail(*most->sequence, code, error.what(), error.subject());
}

// What one sequence gets out of a step. Failures are its own.
void StepLoop::take_entry(const StepPlan& plan, const PlanEntry& entry, double now) {
  Sequence& s = *entry.sequence;
  const int64_t id = s.id;
  try {
    if (s.request().want_score) {
      take_scores(s, entry);
    } else if (entry.n_logits > 0) {
      take_logits(s, plan, entry, now);
    }
  } catch (const Error& error) {
    return fail(s, error_code_name(error.code()), error.what(), error.subject());
  } catch (const std::bad_alloc&) {
    return fail(s, error_code_name(ErrorCode::kOutOfMemory), "memory ran out while a token was chosen", "");
  }
  if (Sequence* alive = find(id); alive && alive->has_output()) outputs_.push_back(alive->take_output());
}

void StepLoop::take_scores(Sequence& s, const PlanEntry& entry) {
  for (int32_t i = 0; i < entry.n_logits; ++i) {
    const int64_t position = s.computed - entry.n_rows + i;
    if (position < static_cast<int64_t>(s.values.size())) continue;  // scored before a preemption
    const float* const logits = logits_row(entry.first_logit + i);
    samplers_[0].require_finite(logits);
    s.values.push_back(samplers_[0].logprob(logits, s.tokens[static_cast<size_t>(position) + 1], 0).logprob);
  }
  if (s.computed == s.size()) finish(s, FinishReason::kStop);
}

// Row by row with exactly the state that a step for each token would have: a draft token enters the sequence only as
// the token that was sampled at its place, and its keys and values count from then on. The rows after the first wrong
// guess were run in vain; the next step writes over them.
void StepLoop::take_logits(Sequence& s, const StepPlan& plan, const PlanEntry& entry, double now) {
  if (s.rescale_begin_ms >= 0) {
    s.usage.rescale_ms += now - s.rescale_begin_ms;
    s.rescale_begin_ms = -1;
  }
  if (s.request().want_prompt_logits) {
    float* const logits = logits_row(entry.first_logit);
    samplers_[0].require_finite(logits);
    s.values.assign(logits, logits + vocab_);
    return finish(s, FinishReason::kStop);
  }
  const std::span<const int32_t> draft = plan.draft(entry);
  s.usage.draft_tokens += entry.n_draft;
  draft_tokens_ += entry.n_draft;
  for (int32_t i = 0; i < entry.n_draft; ++i) {
    if (!sample(s, entry.first_logit + i, draft[i], now)) return;
    scheduler_.advance(&s, 1);
  }
  sample(s, entry.first_logit + entry.n_draft, -1, now);
}

bool StepLoop::sample(Sequence& s, int64_t row, int32_t draft, double now) {
  TokenLogprob logprob;
  int32_t token = take_drawn(row, logprob);
  if (token == kNotDrawn) {
    find_banned(s, banned_);
    token = samplers_[0].sample(logits_row(row), s.request().sampling, s.counts, banned_,
                                static_cast<uint64_t>(s.size()), &logprob);
  }
  if (s.first_token_ms < 0) s.first_token_ms = now;
  ++generated_tokens_;
  const bool ends = s.is_eos(token);
  const SegmentMachine::Verdict verdict = s.machine.push(token, ends, now - s.first_step_ms, s.remaining() - 1);
  if (verdict.drop) {
    drop_queued(s);
    append_forced(s, verdict.close);
    return false;
  }
  if (token == draft) ++s.usage.accepted_tokens, ++accepted_tokens_;
  const bool stopped = s.append({token, verdict.segment, false}, std::move(logprob));
  append_forced(s, stopped || ends ? SegmentMachine::Close::kOpen : verdict.close);
  const bool full = s.remaining() <= 0;
  if (stopped || ends || full) finish(s, stopped || ends ? FinishReason::kStop : FinishReason::kLength);
  return token == draft && verdict.close == SegmentMachine::Close::kOpen && !stopped && !ends && !full;
}

EngineStats StepLoop::stats() const {
  EngineStats out;
  count_into(out);
  out.expert_counts = parts_.executable->expert_counts();
  return out;
}

void StepLoop::count_into(EngineStats& out) const {
  out.running = static_cast<int64_t>(scheduler_.running().size());
  out.waiting = static_cast<int64_t>(scheduler_.waiting().size());
  out.total_blocks = pool_.total();
  out.free_blocks = pool_.free_blocks();
  out.cached_blocks = pool_.cached_blocks();
  out.block_bytes = parts_.block_bytes;
  out.weight_bytes = weight_bytes_;
  out.steps = steps_;
  out.prompt_tokens = prompt_tokens_;
  out.cached_tokens = cached_tokens_;
  out.generated_tokens = generated_tokens_;
  out.draft_tokens = draft_tokens_;
  out.accepted_tokens = accepted_tokens_;
}

}  // namespace qwen3
