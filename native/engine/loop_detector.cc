#include "engine/loop_detector.h"

#include <algorithm>

namespace qwen3 {

uint64_t LoopDetector::hash_at(int64_t position) const {
  uint64_t hash = 0x9e3779b97f4a7c15u;
  for (int64_t i = position - kGram + 1; i <= position; ++i) {
    hash = (hash ^ static_cast<uint32_t>(tokens_[i])) * 0x100000001b3u;
  }
  return hash ^ (hash >> 29);
}

int64_t LoopDetector::remember(int64_t position) {
  const size_t mask = last_.size() - 1;
  for (size_t slot = hash_at(position) & mask;; slot = (slot + 1) & mask) {
    const int64_t previous = last_[slot] - 1;
    if (previous >= 0 && !same_gram(previous, position)) continue;
    last_[slot] = static_cast<int32_t>(position + 1);
    return previous;
  }
}

bool LoopDetector::same_gram(int64_t a, int64_t b) const {
  return std::equal(&tokens_[a - kGram + 1], &tokens_[a] + 1, &tokens_[b - kGram + 1]);
}

// `previous` is where the newest n-gram stood before. Counts how far back the two agree; at most kMinTokens tokens, to
// keep the cost constant, which is enough to judge the shortest cycles at once.
void LoopDetector::start_candidate(int64_t previous) {
  const int64_t here = static_cast<int64_t>(tokens_.size()) - 1;
  period_ = here - previous;
  run_ = 0;
  while (run_ < kMinTokens && run_ <= previous && tokens_[here - run_] == tokens_[previous - run_]) ++run_;
}

bool LoopDetector::push(int32_t token) {
  tokens_.push_back(token);
  const int64_t n = static_cast<int64_t>(tokens_.size());
  if (n > static_cast<int64_t>(last_.size()) / 2) {
    last_.assign(std::max<size_t>(last_.size() * 2, 256), 0);
    for (int64_t i = kGram - 1; i < n - 1; ++i) remember(i);
  }
  if (n < kGram) return false;
  const int64_t previous = remember(n - 1);
  if (period_ > 0 && tokens_[n - 1 - period_] == token) {
    ++run_;
  } else {
    period_ = run_ = 0;
    if (previous >= 0) start_candidate(previous);
  }
  return period_ > 0 && run_ >= 2 * period_ && run_ + period_ >= kMinTokens;
}

}  // namespace qwen3
