#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/status.h"
#include "engine/block_pool.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"

namespace qwen3 {

// When a sequence is scaled by YaRN. kAuto: not while it fits the native window; from the start when the prompt comes
// within 1/32 of it and the request may outgrow it.
struct RopePolicy {
  EngineOptions::Rope mode = EngineOptions::Rope::kAuto;
  bool has_yarn = false;
  int64_t window = 0;
  int32_t initial_table(int64_t prompt_tokens, int64_t limit) const;
  bool outgrown(int32_t table, int64_t tokens) const;
};

// The engine without its thread: what happens to the requests, step by step. Not thread safe.
class StepLoop {
 public:
  // Throws what Engine::create says.
  StepLoop(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend, const EngineOptions& options,
           std::function<double()> clock_ms);

  // Requests have passed validate_request().
  void submit(int64_t id, Request&& request, double submitted_ms);
  void cancel(int64_t id);
  void cancel_all();
  // Ends one request with an error; `submitted`: also when it was not yet taken in.
  void fail(int64_t id, bool submitted, const char* code, const char* message);
  void fail_all(const std::string& code, const std::string& message);
  void end_thinking(int64_t id);
  void set_thinking_budget(int64_t id, int64_t tokens);

  bool idle() const { return scheduler_.idle() && queue_.empty(); }
  // Takes the next step's tokens. Where the device draws them, the step after it is queued before, if it is certain
  // which one that is: the device goes on while the host decides what the tokens mean.
  void step();
  // Everything that the calls since the last take_outputs() produced.
  std::vector<RequestOutput> take_outputs();

  EngineStats stats() const;
  void count_into(EngineStats& out) const;                    // all of stats() that needs no memory
  int64_t context_tokens() const { return context_tokens_; }  // most tokens of a sequence: context and pool allow
  const BlockPool& pool() const { return pool_; }
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  // What a step needs, made once.
  struct Parts {
    std::shared_ptr<const Program> program;
    int64_t block_bytes = 0;
    int32_t n_blocks = 0, prefill_chunk = 0;
    std::unique_ptr<KvCache> cache;
    std::unique_ptr<Executable> executable;
  };
  static Parts make_parts(const Model& model, Backend& backend, const EngineOptions& options);

  Sequence* find(int64_t id);
  void take_entry(const StepPlan& plan, const PlanEntry& entry, double now);
  void take_logits(Sequence& sequence, const StepPlan& plan, const PlanEntry& entry, double now);
  void take_scores(Sequence& sequence, const PlanEntry& entry);
  // One token, and what follows from it. `draft`: the token guessed for this place, -1 = none. True when it was guessed
  // right, the sequence goes on and nothing was forced: the next row of logits counts too.
  bool sample(Sequence& sequence, int64_t row, int32_t draft, double now);
  int32_t take_drawn(int64_t row, TokenLogprob& logprob);
  void find_banned(const Sequence& sequence, std::vector<int32_t>& banned) const;
  void append_forced(Sequence& sequence, SegmentMachine::Close close);
  void close_thinking(Sequence& sequence, SegmentMachine::Close close);
  void rescale_outgrown();
  void finish(Sequence& sequence, FinishReason reason);
  void fail(Sequence& sequence, const std::string& code, const std::string& message, const std::string& subject);
  void fail_step(const StepPlan& plan, const std::string& code, const std::string& message, const std::string& subject);
  // A step that could not be run for want of memory has changed nothing: who wants the most rows of logits gives way
  // (of several the youngest), the others go on.
  void refuse_step(const StepPlan& plan, const Error& error);
  void take_entries(const StepPlan& plan, double now);

  // step_draws.cc: tokens that the host draws, a step's rows on several threads.
  struct Draw {
    const Sequence* sequence;
    int64_t row;
    std::vector<int32_t> banned;
  };
  void draw_rows(const StepPlan& plan);
  void draw_row(const Draw& draw, Sampler& sampler);

  // step_queue.cc: steps whose tokens the device draws.
  struct QueuedStep {
    StepPlan plan;
    double begin = 0;
    bool logprobs = false;  // whether some row asked for them
  };
  void start_step();
  bool sampled_there(const StepPlan& plan, bool ahead);
  bool sample_entry(const PlanEntry& entry, bool ahead);
  void queue_step(const StepPlan& plan);
  void run_ahead();
  void collect_step();
  void take_logprobs(const StepPlan& plan);
  void fail_queue(const std::string& code, const std::string& message, const std::string& subject);
  // The sequence ends or is cut: what queued steps draw for it does not count, and their keys and values are written
  // over.
  void drop_queued(const Sequence& sequence);
  float* logits_row(int64_t row) { return logits_.data() + row * vocab_; }

  std::shared_ptr<const Model> model_;
  std::shared_ptr<Backend> backend_;
  std::function<double()> clock_ms_;
  TokenTable table_;
  int64_t vocab_;
  Parts parts_;
  int64_t context_tokens_;
  RopePolicy rope_;
  BlockPool pool_;
  Scheduler scheduler_;
  StepCost cost_;
  std::vector<Sampler> samplers_;  // one a thread that draws, at least one
  std::vector<float> logits_;      // [n_logits, vocab], grows to the largest step
  // Per row of logits of the step that is being taken: the token that was drawn already, or one of those below.
  std::vector<int32_t> drawn_;
  static constexpr int32_t kBrokenLogits = -1, kNoMemory = -2, kNotDrawn = -3;
  std::vector<TokenLogprob> drawn_logprobs_;  // of the rows that were drawn already
  std::vector<RowLogprobs> device_logprobs_;  // the same from a device, for the step that is being collected
  std::vector<Draw> draws_;                   // the first n are in use: their memory is kept
  std::deque<QueuedStep> queue_;              // on the device, oldest first: at most two, between steps at most one
  double taken_ms_ = 0;                       // when the last step was taken
  std::vector<RowSampling> sampling_;
  std::vector<LogitAdjustment> adjustments_;
  std::vector<std::pair<size_t, size_t>> adjusted_;  // of each row: first and last + 1 of adjustments_
  StepPlan ahead_;
  std::vector<int32_t> banned_;
  std::vector<Sequence*> outgrown_;
  std::unordered_map<int64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<RequestOutput> outputs_;
  int64_t weight_bytes_ = 0, steps_ = 0, prompt_tokens_ = 0, cached_tokens_ = 0, generated_tokens_ = 0,
          draft_tokens_ = 0, accepted_tokens_ = 0;
};

// Throws what Engine::submit says. `context_length` is the engine's option, `pool_tokens` what its KV cache can hold.
void validate_request(const Request& request, int64_t vocab, int64_t context_length, int64_t pool_tokens);

}  // namespace qwen3
