#include "engine/prompt_lookup.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "core/status.h"

namespace qwen3 {
namespace {

// Slots that are looked at for one n-gram. At most half of all are taken, so that an honest text needs this many for
// one n-gram in 2^32; a text made to collide loses matches and no time.
constexpr size_t kProbes = 32;
// Longer matches than this are not told apart.
constexpr int32_t kLongest = 32;
// A record forgets its older half after about 14 trials, and the prior weighs as much as two.
constexpr float kForget = 0.95f, kPriorTrials = 2;

size_t hash_of(std::span<const int32_t> tokens, int64_t end, int32_t n) {
  uint64_t hash = 0;
  for (int64_t i = end - n + 1; i <= end; ++i) {
    hash = (hash ^ static_cast<uint32_t>(tokens[static_cast<size_t>(i)])) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return static_cast<size_t>(hash);
}

// How many tokens up to `a` and up to `b` are the same, at most kLongest; a < b.
int32_t common_suffix(std::span<const int32_t> tokens, int64_t a, int64_t b) {
  int32_t n = 0;
  while (n < kLongest && n <= a && tokens[static_cast<size_t>(a - n)] == tokens[static_cast<size_t>(b - n)]) ++n;
  return n;
}

}  // namespace

void PromptLookup::validate(const Speculation& o) {
  const auto require = [](bool ok, const char* field, const std::string& expected, int64_t received) {
    if (ok) return;
    throw Error(ErrorCode::kInvalidArgument,
                std::string(field) + " must be " + expected + ", received " + std::to_string(received), field);
  };
  const std::string longest = std::to_string(kMaxNgram);
  require(o.max_draft >= 0 && o.max_draft <= kMaxDraft, "speculation.maxDraft",
          "from 1 to " + std::to_string(kMaxDraft), o.max_draft);
  require(o.min_ngram >= 1 && o.min_ngram <= kMaxNgram, "speculation.minNgram", "from 1 to " + longest, o.min_ngram);
  require(o.max_ngram >= o.min_ngram && o.max_ngram <= kMaxNgram, "speculation.maxNgram",
          "from minNgram (" + std::to_string(o.min_ngram) + ") to " + longest, o.max_ngram);
}

PromptLookup::PromptLookup(const Speculation& options, std::span<const int32_t> tokens)
    : max_draft_(options.max_draft), draft_(static_cast<size_t>(options.max_draft)) {
  for (int32_t n = options.max_ngram; n >= options.min_ngram; --n) indexes_.emplace_back(n);
  for (size_t n = 1; n < tokens.size(); ++n) {
    for (Index& index : indexes_) index.insert(tokens, static_cast<int64_t>(n) - 1);
  }
  match_ = find(tokens);
}

// The n-gram's slot, or the one to put it into.
size_t PromptLookup::Index::slot_of(std::span<const int32_t> tokens, int64_t end) const {
  const size_t mask = slots_.size() - 1;
  const size_t hash = hash_of(tokens, end, n_), stride = (hash >> 40) | 1;
  size_t slot = hash & mask;
  for (size_t probe = 1; probe < kProbes && slots_[slot] != 0; ++probe) {
    const int64_t known = slots_[slot] - 1;
    if (std::equal(&tokens[static_cast<size_t>(known - n_ + 1)], &tokens[static_cast<size_t>(known)] + 1,
                   &tokens[static_cast<size_t>(end - n_ + 1)])) {
      return slot;
    }
    slot = (slot + stride) & mask;
  }
  return slot;
}

void PromptLookup::Index::insert(std::span<const int32_t> tokens, int64_t end) {
  if (end < n_ - 1) return;
  if (used_ * 2 >= slots_.size()) grow(tokens);
  int32_t& slot = slots_[slot_of(tokens, end)];
  if (slot == 0) ++used_;
  slot = static_cast<int32_t>(end + 1);
}

void PromptLookup::Index::grow(std::span<const int32_t> tokens) {
  const std::vector<int32_t> old = std::exchange(slots_, std::vector<int32_t>(std::max<size_t>(slots_.size() * 2, 64)));
  used_ = 0;
  for (const int32_t position : old) {
    if (position == 0) continue;
    int32_t& slot = slots_[slot_of(tokens, position - 1)];
    if (slot == 0) ++used_;
    slot = std::max(slot, position);
  }
}

int64_t PromptLookup::Index::find(std::span<const int32_t> tokens, int64_t end) const {
  if (end < n_ - 1 || slots_.empty()) return -1;
  const int64_t known = slots_[slot_of(tokens, end)] - 1;
  return known >= 0 && common_suffix(tokens, known, end) >= n_ ? known : -1;
}

size_t PromptLookup::class_of(int32_t length) {
  if (length < 5) return static_cast<size_t>(length - 1);
  return static_cast<size_t>(std::bit_width(static_cast<uint32_t>(length))) + 1;  // 5-7, 8-15, 16-31, 32
}

float PromptLookup::chance(int32_t length) const {
  const Record& record = records_[class_of(length)];
  const float prior = static_cast<float>(length) / static_cast<float>(length + 2);
  return (record.hits + kPriorTrials * prior) / (record.trials + kPriorTrials);
}

void PromptLookup::score(int32_t length, bool hit) {
  Record& record = records_[class_of(length)];
  record.hits = record.hits * kForget + (hit ? 1 : 0);
  record.trials = record.trials * kForget + 1;
}

// A match that went right is followed on unless another one is longer, or as long and more recent.
PromptLookup::Match PromptLookup::find(std::span<const int32_t> tokens) const {
  const int64_t last = static_cast<int64_t>(tokens.size()) - 1;
  Match best;
  if (match_.length > 0 && match_.next < last && tokens[static_cast<size_t>(match_.next)] == tokens.back()) {
    best = {match_.next + 1, std::min(match_.length + 1, kLongest)};
  }
  for (const Index& index : indexes_) {
    const int64_t end = index.find(tokens, last);
    if (end < 0) continue;
    // A shorter n-gram that stood later has no longer match: this one would have been found there.
    const int32_t length = common_suffix(tokens, end, last);
    if (length > best.length || (length == best.length && end + 1 > best.next)) best = {end + 1, length};
    break;
  }
  return best;
}

void PromptLookup::push(std::span<const int32_t> tokens, bool chosen) {
  if (tokens.size() < 2) return;
  if (chosen && match_.length > 0) score(match_.length, tokens[static_cast<size_t>(match_.next)] == tokens.back());
  // The n-grams at the very end stay out of the index, or they would be found as their own past.
  for (Index& index : indexes_) index.insert(tokens, static_cast<int64_t>(tokens.size()) - 2);
  match_ = find(tokens);
}

std::span<const PromptLookup::Draft> PromptLookup::propose(std::span<const int32_t> tokens, int64_t most) {
  if (match_.length == 0) return {};
  const size_t n = static_cast<size_t>(std::clamp<int64_t>(most, 0, max_draft_));
  float all = 1;
  for (size_t i = 0; i < n; ++i) {
    // A match that reaches into the end goes on with what it has just said: a cycle.
    const size_t from = static_cast<size_t>(match_.next) + i;
    draft_[i].token = from < tokens.size() ? tokens[from] : draft_[from - tokens.size()].token;
    all *= chance(std::min(match_.length + static_cast<int32_t>(i), kLongest));
    draft_[i].chance = all;
  }
  return {draft_.data(), n};
}

}  // namespace qwen3
