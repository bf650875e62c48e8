#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/request.h"
#include "ops/sampling.h"

namespace qwen3 {

// How often the penalties see each token: repetition counts prompt and generated tokens, presence and frequency
// generated ones only. Forced tokens are not counted: the model did not choose them. Kept only for requests that have a
// penalty.
class TokenCounts {
 public:
  TokenCounts(const SamplingParams& params, std::span<const int32_t> prompt);
  void add_generated(int32_t id);
  // Applies the penalties to logits [vocab] in place: repetition first (divides positive logits, multiplies negative
  // ones), then frequency * count + presence.
  void penalise(const SamplingParams& params, float* logits) const;
  // The same, biases and bans as well, for a device. Appends to `out`; false when it cannot be said that way.
  bool adjustments(const SamplingParams& params, std::span<const int32_t> banned,
                   std::vector<LogitAdjustment>& out) const;
  bool active() const { return active_; }

 private:
  bool active_;
  std::unordered_map<int32_t, int32_t> generated_;  // id -> times generated; 0 = in the prompt only
};

// Draws one token from a row of logits. Everything is a function of the row, the parameters and (seed, choice,
// position): weights are exp_f32((x - max) / temperature) as 64-bit fixed point (2^39 = 1), so sums do not depend on
// their order and cuts are exact; candidates are ordered by adjusted logit, ties to the lower id. Scratch inside: one a
// thread.
class Sampler {
 public:
  explicit Sampler(int32_t vocab) : vocab_(vocab), block_max_((vocab + kBlock - 1) / kBlock) {}

  // logits [vocab] is overwritten. `banned` ids are never drawn (unless nothing else is left). Throws Error(kInternal)
  // when a logit is not finite. `logprob` may be null; otherwise it is filled as params.top_logprobs says.
  int32_t sample(float* logits, const SamplingParams& params, const TokenCounts& counts,
                 std::span<const int32_t> banned, uint64_t position, TokenLogprob* logprob);

  // log-softmax of raw logits at `id`, and the `top` most likely tokens.
  TokenLogprob logprob(const float* logits, int32_t id, int32_t top);
  void require_finite(const float* logits) const;
  [[noreturn]] static void refuse_broken_logits();

 private:
  static constexpr int32_t kBlock = 64;
  struct Candidate {
    int32_t key;  // order-preserving image of the adjusted logit
    int32_t id;
    uint64_t mass;
  };
  // The last candidate, in the order (key descending, id ascending), that a cut keeps.
  struct Boundary {
    int32_t key = INT32_MIN, id = INT32_MAX;
    bool keeps(int32_t k, int32_t i) const { return k > key || (k == key && i <= id); }
  };
  void find_block_maxima(const float* logits);
  void find_top(const float* logits, int32_t n);  // fills top_, best first
  void collect(const float* logits, float temperature, const Boundary& boundary);
  void cut_top_p(float top_p);
  void cut_min_p(float min_p);
  int32_t greedy(const float* logits);
  int32_t draw(const float* logits, const SamplingParams& params, uint64_t position);

  int32_t vocab_;
  std::vector<int32_t> block_max_;                // [ceil(vocab / 64)] keys
  std::vector<int32_t> ranked_maxima_;            // the same, partly sorted
  std::vector<std::pair<int32_t, int32_t>> top_;  // (key, id)
  std::vector<Candidate> candidates_;             // ids ascending
  std::vector<Candidate> sorted_;
  std::vector<uint64_t> bucket_mass_;
  std::vector<float> raw_;  // the row before penalties, when log-probabilities are wanted
};

// Throws Error(kInvalidArgument, field) for NaN, ranges and token ids beyond the vocabulary.
void validate_sampling(const SamplingParams& params, int64_t vocab);

}  // namespace qwen3
