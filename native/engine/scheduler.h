#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/sequence.h"
#include "engine/step_cost.h"
#include "ops/backend.h"
#include "ops/step.h"

namespace qwen3 {

// One sequence's part of a step: `n_rows` tokens from Sequence::computed on, then `n_draft` that may follow, and the
// logits that it wants.
struct PlanEntry {
  Sequence* sequence = nullptr;  // null: gone or cut while the step was queued
  int32_t n_rows = 0, n_draft = 0;
  int32_t first_row = 0;                  // of the step
  int32_t first_logit = 0, n_logits = 0;  // rows of the logits buffer
};

struct StepPlan {
  std::vector<PlanEntry> entries;
  std::vector<int32_t> tokens, logits_rows;
  std::vector<StepSequence> sequences;  // an entry's drafts may be one of their own
  bool decodes_only = false;            // no entry has more than one row, drafts aside
  StepBatch batch() const { return {tokens, sequences, logits_rows}; }
  std::span<const int32_t> draft(const PlanEntry& entry) const {
    return std::span(tokens).subspan(static_cast<size_t>(entry.first_row + entry.n_rows), entry.n_draft);
  }
};

// Continuous batching. Every step carries one row for each sequence that decodes, then up to prefill_chunk rows
// (prefill_beside, if that is less, where any decodes) of those that have more to catch up (prompts, wrap-ups,
// restarts), shared evenly so that a short prompt never waits for a long one. Order is the order of submission. When
// blocks run out, the youngest running sequence gives its own back and waits: its tokens are kept and computed again
// later, which gives the same bits. What prefill leaves of its rows may carry draft tokens, as many as make the
// expected tokens a second the most; they never push out a sequence. Not thread safe.
class Scheduler {
 public:
  struct Options {
    int32_t max_sequences = 64;
    int32_t prefill_chunk = 512, prefill_beside = 2048;
    int32_t score_rows = 64;  // logits rows that score requests may take of one step, together
    int32_t draft_rows = 64;  // draft tokens of one step, together: each takes a row of logits
    // Most tokens of a sequence under rope table 0, after which it is to be scaled.
    int64_t unscaled_tokens = std::numeric_limits<int64_t>::max();
    bool poison_blocks = false;  // tests: fill blocks of unknown contents with NaN
  };
  Scheduler(BlockPool& pool, KvCache& cache, const Options& options) : pool_(pool), cache_(cache), options_(options) {}

  void add(Sequence* sequence);
  // Forgets a sequence. Its computed blocks stay in the prefix cache; those of a failed step must not (keep_tail =
  // false drops the last, partly filled one; the others were recorded after earlier steps).
  void remove(Sequence* sequence, bool keep_tail);
  // Gives the blocks back and queues the sequence again, by its age; the next admission computes its tokens anew.
  void restart(Sequence* sequence);

  // The next step; valid until the next call. Empty exactly when there is no sequence. `cost` decides on drafts only.
  const StepPlan& plan(const StepCost& cost);
  // The step after one that is queued and whose tokens are not known yet: each of its sequences goes on by the token
  // that it draws. False when another step may have to come next, whatever is drawn: somebody waits or prefills, a
  // sequence drafts, is about to be scaled, or finds no block. What was `dropped` from the queued step (null) is left
  // out, and so is who gets its last token there.
  bool plan_ahead(const StepPlan& queued, StepPlan& out);
  // The keys and values of so many more tokens of the sequence are in place: full blocks become known to the prefix
  // cache. Draft tokens count only once they have been appended.
  void advance(Sequence* sequence, int32_t n_tokens);

  bool idle() const { return running_.empty() && waiting_.empty(); }
  const std::vector<Sequence*>& running() const { return running_; }
  const std::vector<Sequence*>& waiting() const { return waiting_; }
  int64_t preemptions() const { return preemptions_; }

 private:
  void admit();
  bool try_admit(Sequence* sequence);
  void adopt(Sequence* sequence, const PrefixHit& hit);
  bool ensure_blocks(Sequence* sequence, int64_t end);
  bool goes_ahead(const PlanEntry& entry);
  int32_t allocate();
  void release_blocks(Sequence* sequence, bool keep_tail);
  void choose_decodes();
  void choose_prefills();
  void choose_drafts(const StepCost& cost);
  int32_t reserve_draft(Sequence* sequence, int64_t n);
  void build();

  BlockPool& pool_;
  KvCache& cache_;
  Options options_;
  std::vector<Sequence*> running_, waiting_;  // oldest first
  struct Choice {
    Sequence* sequence;
    int32_t n_rows;
    std::span<const PromptLookup::Draft> draft = {};
  };
  std::vector<Choice> chosen_;
  StepPlan plan_;
  uint64_t next_arrival_ = 0, refused_version_ = 0;
  const Sequence* refused_ = nullptr;  // the head of the queue that did not fit at refused_version_
  int64_t preemptions_ = 0;
};

}  // namespace qwen3
