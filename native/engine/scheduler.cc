#include "engine/scheduler.h"

#include <algorithm>
#include <new>
#include <stdexcept>

namespace qwen3 {
namespace {

// A draft must promise so many times the tokens per millisecond that the step has without it.
constexpr double kWorthwhile = 1.03;

void insert_by_age(std::vector<Sequence*>& list, Sequence* sequence) {
  list.insert(std::upper_bound(list.begin(), list.end(), sequence,
                               [](const Sequence* a, const Sequence* b) { return a->arrival < b->arrival; }),
              sequence);
}

int64_t blocks_for(int64_t tokens) {
  return (tokens + kBlockSize - 1) / kBlockSize;
}

}  // namespace

void Scheduler::add(Sequence* sequence) {
  sequence->arrival = next_arrival_++;
  // So that a block once taken is never lost to a failing allocation.
  sequence->blocks.reserve(static_cast<size_t>(blocks_for(sequence->limit)));
  waiting_.push_back(sequence);
}

int32_t Scheduler::allocate() {
  const int32_t block = pool_.allocate();
  if (block >= 0 && options_.poison_blocks) cache_.poison_block(block);
  return block;
}

void Scheduler::release_blocks(Sequence* s, bool keep_tail) {
  const int64_t full = s->computed / kBlockSize;
  if (keep_tail && s->computed % kBlockSize != 0) {
    const std::span<const int32_t> tokens = s->tokens;
    try {
      pool_.insert(s->cache_namespace(), full > 0 ? s->blocks[full - 1] : -1,
                   tokens.subspan(full * kBlockSize, s->computed % kBlockSize), s->blocks[full]);
    } catch (const std::bad_alloc&) {  // the tail is not kept for later; that it is released matters more
    }
  }
  for (size_t i = s->blocks.size(); i-- > 0;) pool_.release(s->blocks[i]);
  s->blocks.clear();
  s->computed = s->recorded = 0;
}

void Scheduler::remove(Sequence* sequence, bool keep_tail) {
  release_blocks(sequence, keep_tail);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
  if (refused_ == sequence) refused_ = nullptr;
}

void Scheduler::restart(Sequence* sequence) {
  release_blocks(sequence, true);
  sequence->prefilled = sequence->size();
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
  std::erase_if(chosen_, [&](const auto& choice) { return choice.sequence == sequence; });
  insert_by_age(waiting_, sequence);
}

void Scheduler::admit() {
  while (!waiting_.empty() && static_cast<int32_t>(running_.size()) < options_.max_sequences) {
    Sequence* const next = waiting_.front();
    if (refused_ == next && refused_version_ == pool_.version() && !running_.empty()) return;
    if (!try_admit(next)) {
      refused_ = next;
      refused_version_ = pool_.version();
      return;
    }
    waiting_.erase(waiting_.begin());
    insert_by_age(running_, next);
  }
}

// A sequence is let in when all its tokens so far and one block for each running sequence fit, so that it does not at
// once push out another; alone it always fits.
bool Scheduler::try_admit(Sequence* s) {
  PrefixHit hit;
  // Every position of a score request is run: its logits are the result.
  if (!s->request().want_score) hit = pool_.match(s->cache_namespace(), s->tokens, s->size() - 1);
  const int64_t needed = blocks_for(std::min(s->size() + 1, s->limit)) - static_cast<int64_t>(hit.blocks.size());
  const int64_t growth = static_cast<int64_t>(running_.size());
  if (running_.empty() || pool_.available() >= needed + growth) {
    adopt(s, hit);
    return true;
  }
  if (hit.partial_block >= 0) pool_.release(hit.partial_block);
  for (size_t i = hit.blocks.size(); i-- > 0;) pool_.release(hit.blocks[i]);
  return false;
}

void Scheduler::adopt(Sequence* s, const PrefixHit& hit) {
  s->blocks = hit.blocks;
  s->recorded = static_cast<int64_t>(hit.blocks.size());
  s->computed = s->recorded * kBlockSize;
  if (hit.partial_block >= 0) {
    const int32_t copy = allocate();
    if (copy >= 0) {
      s->blocks.push_back(copy);  // first: it is given back with the others if copying fails
      try {
        cache_.copy_block(hit.partial_block, copy, hit.partial_tokens);
      } catch (...) {
        pool_.release(hit.partial_block);
        throw;
      }
      s->computed += hit.partial_tokens;
    }
    pool_.release(hit.partial_block);
  }
  if (!s->admitted_before) s->usage.cached_tokens = s->computed;
  s->admitted_before = true;
}

// Makes room for positions [0, end) of a sequence. False when the sequence itself had to give way.
bool Scheduler::ensure_blocks(Sequence* s, int64_t end) {
  while (static_cast<int64_t>(s->blocks.size()) < blocks_for(end)) {
    const int32_t block = allocate();
    if (block >= 0) {
      s->blocks.push_back(block);
      continue;
    }
    Sequence* const victim = running_.back();
    if (victim == s && running_.size() == 1)
      throw std::logic_error("a sequence was let in that the KV pool cannot hold");
    restart(victim);
    ++preemptions_;
    if (victim == s) return false;
  }
  return true;
}

void Scheduler::choose_decodes() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* const s = running_[i];
    if (s->size() - s->computed != 1 || s->request().want_score) continue;
    if (ensure_blocks(s, s->size())) chosen_.push_back({s, 1});
  }
}

void Scheduler::choose_prefills() {
  const auto prefills = [](const Sequence* s) { return s->size() - s->computed > 1 || s->request().want_score; };
  int64_t rows_left =
      chosen_.empty() ? options_.prefill_chunk : std::min(options_.prefill_chunk, options_.prefill_beside);
  int64_t score_left = options_.score_rows;
  int64_t sequences_left = std::count_if(running_.begin(), running_.end(), prefills);
  for (size_t i = 0; i < running_.size() && rows_left > 0; ++i) {
    Sequence* const s = running_[i];
    if (!prefills(s)) continue;
    int64_t rows =
        std::min(s->size() - s->computed, std::max<int64_t>(1, rows_left / std::max<int64_t>(1, sequences_left)));
    --sequences_left;
    if (s->request().want_score) rows = std::min(rows, score_left);
    if (rows == 0 || !ensure_blocks(s, s->computed + rows)) continue;
    if (s->request().want_score) score_left -= rows;
    rows_left -= rows;
    chosen_.push_back({s, static_cast<int32_t>(rows)});
  }
}

// Blocks for n draft tokens, taken only while every running sequence can still grow by one. How many of them fit.
int32_t Scheduler::reserve_draft(Sequence* s, int64_t n) {
  while (static_cast<int64_t>(s->blocks.size()) < blocks_for(s->size() + n)) {
    const bool ample = pool_.available() > static_cast<int32_t>(running_.size());
    const int32_t block = ample ? allocate() : -1;
    if (block < 0) break;
    s->blocks.push_back(block);
  }
  return static_cast<int32_t>(std::min(n, static_cast<int64_t>(s->blocks.size()) * kBlockSize - s->size()));
}

// Every sequence that gets a token from this step, the oldest first, may add the rows that raise the expected tokens
// per millisecond of the whole step the most. Where a row costs its full share that is only what is all but certain.
void Scheduler::choose_drafts(const StepCost& cost) {
  int64_t rows = 0, room = options_.prefill_chunk;
  double tokens = 0;  // expected of this step
  for (const Choice& choice : chosen_) {
    rows += choice.n_rows;
    if (choice.n_rows > 1) room -= choice.n_rows;
    tokens += choice.sequence->computed + choice.n_rows == choice.sequence->size() ? 1 : 0;
  }
  room = std::min<int64_t>(room, options_.draft_rows);
  for (Choice& choice : chosen_) {
    Sequence* const s = choice.sequence;
    if (!s->lookup || room <= 0 || s->computed + choice.n_rows != s->size()) continue;
    int64_t most = std::min(room, s->remaining() - 1);
    if (s->rope_table == 0) most = std::min(most, options_.unscaled_tokens - s->size());
    const auto proposal = s->lookup->propose(s->tokens, most);
    double best_rate = kWorthwhile * tokens / cost.of(rows), expected = tokens, best_tokens = tokens;
    size_t best = 0;
    for (size_t n = 1; n <= proposal.size(); ++n) {
      expected += proposal[n - 1].chance;
      const double rate = expected / cost.of(rows + static_cast<int64_t>(n));
      if (rate > best_rate) best_rate = rate, best = n, best_tokens = expected;
    }
    if (best == 0) continue;
    choice.draft = proposal.first(static_cast<size_t>(reserve_draft(s, static_cast<int64_t>(best))));
    room -= static_cast<int64_t>(choice.draft.size());
    rows += static_cast<int64_t>(choice.draft.size());
    tokens = best_tokens;
  }
}

void Scheduler::build() {
  plan_.entries.clear();
  plan_.tokens.clear();
  plan_.sequences.clear();
  plan_.logits_rows.clear();
  plan_.decodes_only = true;
  for (const auto& [s, rows, draft] : chosen_) {
    const int32_t row = static_cast<int32_t>(plan_.tokens.size()), n_draft = static_cast<int32_t>(draft.size());
    const int64_t end = s->computed + rows;
    PlanEntry entry{s, rows, n_draft, row, static_cast<int32_t>(plan_.logits_rows.size()), 0};
    if (s->request().want_score) {
      entry.n_logits = static_cast<int32_t>(std::min(end, s->size() - 1) - s->computed);
    } else if (end == s->size()) {
      entry.n_logits = 1 + n_draft;
    }
    const int32_t first = s->request().want_score ? row : row + rows - 1;
    for (int32_t i = 0; i < entry.n_logits; ++i) plan_.logits_rows.push_back(first + i);
    plan_.tokens.insert(plan_.tokens.end(), s->tokens.begin() + s->computed, s->tokens.begin() + end);
    for (const PromptLookup::Draft& guess : draft) plan_.tokens.push_back(guess.token);
    const std::span<const int32_t> blocks = s->blocks;
    const bool decode = s->computed >= s->prefilled && s->generates();
    // Drafts are generated positions, whatever comes before them.
    const int32_t together = decode ? rows + n_draft : rows;
    plan_.sequences.push_back({row, together, static_cast<int32_t>(s->computed),
                               blocks.first(blocks_for(end + n_draft)), s->rope_table, decode});
    if (together < rows + n_draft) {
      plan_.sequences.push_back({row + rows, n_draft, static_cast<int32_t>(end),
                                 blocks.first(blocks_for(end + n_draft)), s->rope_table, true});
    }
    plan_.entries.push_back(entry);
    plan_.decodes_only = plan_.decodes_only && rows == 1;
  }
}

const StepPlan& Scheduler::plan(const StepCost& cost) {
  chosen_.clear();
  admit();
  choose_decodes();
  choose_prefills();
  choose_drafts(cost);
  build();
  return plan_;
}

// Whether a queued sequence certainly decodes one row next, if it goes on at all; its block is taken here.
bool Scheduler::goes_ahead(const PlanEntry& entry) {
  Sequence* const s = entry.sequence;
  if (entry.n_draft != 0 || entry.n_logits != 1 || s->lookup || !s->generates()) return false;
  if (s->rope_table == 0 && s->size() + 1 > options_.unscaled_tokens) return false;
  while (static_cast<int64_t>(s->blocks.size()) < blocks_for(s->size() + 1)) {
    const int32_t block = allocate();
    if (block < 0) return false;  // who gives way is decided between steps
    s->blocks.push_back(block);
  }
  return true;
}

bool Scheduler::plan_ahead(const StepPlan& queued, StepPlan& out) {
  if (!waiting_.empty()) return false;
  out.entries.clear(), out.tokens.clear(), out.sequences.clear(), out.logits_rows.clear();
  out.decodes_only = true;
  size_t running = 0;
  for (const PlanEntry& entry : queued.entries) {
    Sequence* const s = entry.sequence;
    if (!s) continue;
    ++running;
    if (s->remaining() == 1) continue;  // the token that is drawn now is its last
    if (!goes_ahead(entry)) return false;
    const auto row = static_cast<int32_t>(out.tokens.size());
    const std::span<const int32_t> blocks = s->blocks;
    out.tokens.push_back(-1 - entry.first_logit);
    out.logits_rows.push_back(row);
    out.sequences.push_back(
        {row, 1, static_cast<int32_t>(s->size()), blocks.first(blocks_for(s->size() + 1)), s->rope_table, true});
    out.entries.push_back({s, 1, 0, row, row, 1});
  }
  return running == running_.size() && !out.entries.empty();
}

void Scheduler::advance(Sequence* s, int32_t n_tokens) {
  s->computed += n_tokens;
  const std::span<const int32_t> tokens = s->tokens;
  for (; (s->recorded + 1) * kBlockSize <= s->computed; ++s->recorded) {
    const int64_t i = s->recorded;
    s->blocks[i] = pool_.insert(s->cache_namespace(), i > 0 ? s->blocks[i - 1] : -1,
                                tokens.subspan(i * kBlockSize, kBlockSize), s->blocks[i]);
  }
}

}  // namespace qwen3
