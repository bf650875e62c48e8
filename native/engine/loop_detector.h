#pragma once

#include <cstdint>
#include <vector>

namespace qwen3 {

// Tells when the newest tokens are a cycle that has been said three times: the last 3 p tokens have period p. Cycles
// that are short are left alone until kMinTokens tokens repeat, so that rules (-----), table rows, runs of digits and
// lists pass. Constant time a token, amortised: one candidate period is followed at a time; it comes from a hash of the
// last kGram tokens, and every repetition is compared token by token.
class LoopDetector {
 public:
  static constexpr int64_t kMinTokens = 60;  // cycles of 20 tokens and more end at their third repetition
  static constexpr int64_t kGram = 6;

  // True when `token` completes such a cycle.
  bool push(int32_t token);
  int64_t period() const { return period_; }

 private:
  void start_candidate(int64_t previous);
  // Where the n-gram that ends at `position` stood before, -1 = nowhere; from now on it stands at `position`.
  int64_t remember(int64_t position);
  bool same_gram(int64_t a, int64_t b) const;
  uint64_t hash_at(int64_t position) const;

  std::vector<int32_t> tokens_;
  std::vector<int32_t> last_;  // by hash, linear probing, at most half full: where an n-gram ends last + 1; 0 = free
  int64_t period_ = 0;         // candidate, 0 = none
  int64_t run_ = 0;            // newest tokens that equal the one a period before
};

}  // namespace qwen3
