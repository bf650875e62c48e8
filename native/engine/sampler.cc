#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <unordered_set>

#include "core/math.h"
#include "core/random.h"
#include "core/status.h"

namespace qwen3 {
namespace {

// Weights are at most 1 and vocabularies at most 2^24 tokens: a sum of masses stays below 2^63.
constexpr float kOne = 549755813888.0f;  // 2^39
// Below this exponent a mass is 0: 2^-39 = e^-27.03.
constexpr float kNegligible = -27.1f;

// Floats as integers of the same order (IEEE 754 in sign-magnitude turned into two's complement). Adding zero makes -0
// and +0 the same key.
int32_t order_key(float value) {
  const int32_t bits = static_cast<int32_t>(f32_to_bits(value + 0.0f));
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

float key_value(int32_t key) {
  return bits_to_f32(static_cast<uint32_t>(key ^ ((key >> 31) & 0x7fffffff)));
}

uint64_t to_mass(float exponent) {
  return exponent < kNegligible ? 0 : static_cast<uint64_t>(exp_f32(exponent) * kOne);
}

// floor(a b / 2^64)
uint64_t multiply_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

bool better(const std::pair<int32_t, int32_t>& a, const std::pair<int32_t, int32_t>& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

}  // namespace

TokenCounts::TokenCounts(const SamplingParams& params, std::span<const int32_t> prompt)
    : active_(params.presence_penalty != 0 || params.frequency_penalty != 0 || params.repetition_penalty != 1) {
  if (params.repetition_penalty == 1) return;
  for (const int32_t id : prompt) generated_.try_emplace(id, 0);
}

void TokenCounts::add_generated(int32_t id) {
  if (active_) ++generated_[id];
}

void TokenCounts::penalise(const SamplingParams& params, float* logits) const {
  for (const auto& [id, count] : generated_) {
    float x = logits[id];
    x = x > 0 ? x / params.repetition_penalty : x * params.repetition_penalty;
    if (count > 0) x -= params.frequency_penalty * static_cast<float>(count) + params.presence_penalty;
    logits[id] = x;
  }
}

bool TokenCounts::adjustments(const SamplingParams& params, std::span<const int32_t> banned,
                              std::vector<LogitAdjustment>& out) const {
  const size_t begin = out.size();
  for (const auto& [id, count] : generated_) out.push_back({id, 0, count, false});
  if (params.logit_bias.empty() && banned.empty()) return true;
  std::unordered_map<int32_t, size_t> places;
  for (size_t i = begin; i < out.size(); ++i) places.emplace(out[i].id, i);
  const auto of = [&](int32_t id) -> LogitAdjustment& {
    const auto [place, fresh] = places.try_emplace(id, out.size());
    if (fresh) out.push_back({id, 0, -1, false});
    return out[place->second];
  };
  std::unordered_set<int32_t> biased;
  for (const auto& [id, bias] : params.logit_bias) {
    if (!biased.insert(id).second) return false;  // two roundings
    of(id).bias = bias;
  }
  for (const int32_t id : banned) of(id).banned = true;
  return true;
}

void Sampler::require_finite(const float* logits) const {
  uint32_t broken = 0;
  for (int32_t i = 0; i < vocab_; ++i) broken |= (f32_to_bits(logits[i]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  if (broken) refuse_broken_logits();
}

void Sampler::refuse_broken_logits() {
  throw Error(ErrorCode::kInternal,
              "the model produced logits that are not finite numbers; its weights may be damaged");
}

// The largest key of every 64 logits: later passes skip blocks that cannot matter.
void Sampler::find_block_maxima(const float* logits) {
  for (int32_t b = 0; b < static_cast<int32_t>(block_max_.size()); ++b) {
    const int32_t end = std::min(vocab_, (b + 1) * kBlock);
    int32_t best = INT32_MIN;
    for (int32_t i = b * kBlock; i < end; ++i) best = std::max(best, order_key(logits[i]));
    block_max_[b] = best;
  }
}

// A bounded heap with the worst kept candidate on top. Ids ascend, so a later tie never displaces an earlier one.
// The n-th largest block maximum is reached by n logits at least: what lies below it is left out from the start.
void Sampler::find_top(const float* logits, int32_t n) {
  top_.clear();
  int32_t least = INT32_MIN;
  if (n <= static_cast<int32_t>(block_max_.size())) {
    ranked_maxima_ = block_max_;
    std::nth_element(ranked_maxima_.begin(), ranked_maxima_.begin() + (n - 1), ranked_maxima_.end(), std::greater<>());
    least = ranked_maxima_[static_cast<size_t>(n - 1)];
  }
  for (int32_t b = 0; b < static_cast<int32_t>(block_max_.size()); ++b) {
    const bool full = static_cast<int32_t>(top_.size()) == n;
    if (block_max_[b] < least || (full && block_max_[b] <= top_.front().first)) continue;
    const int32_t end = std::min(vocab_, (b + 1) * kBlock);
    for (int32_t i = b * kBlock; i < end; ++i) {
      const int32_t key = order_key(logits[i]);
      if (key < least) continue;
      if (static_cast<int32_t>(top_.size()) < n) {
        top_.emplace_back(key, i);
        std::push_heap(top_.begin(), top_.end(), better);
      } else if (key > top_.front().first) {
        std::pop_heap(top_.begin(), top_.end(), better);
        top_.back() = {key, i};
        std::push_heap(top_.begin(), top_.end(), better);
      }
    }
  }
  std::sort_heap(top_.begin(), top_.end(), better);
}

// Candidates in ascending id with a mass that is not 0.
void Sampler::collect(const float* logits, float temperature, const Boundary& boundary) {
  candidates_.clear();
  const float max = key_value(*std::max_element(block_max_.begin(), block_max_.end()));
  const int32_t least = std::max(boundary.key, order_key(std::max(max + 1.001f * kNegligible * temperature - 1e-3f,
                                                                  std::numeric_limits<float>::lowest())));
  for (int32_t b = 0; b < static_cast<int32_t>(block_max_.size()); ++b) {
    if (block_max_[b] < least) continue;
    const int32_t end = std::min(vocab_, (b + 1) * kBlock);
    for (int32_t i = b * kBlock; i < end; ++i) {
      const int32_t key = order_key(logits[i]);
      if (key < least || !boundary.keeps(key, i)) continue;
      if (const uint64_t mass = to_mass((logits[i] - max) / temperature)) candidates_.push_back({key, i, mass});
    }
  }
}

// Keeps the shortest run of most likely candidates whose mass reaches top_p of the total. A histogram over keys finds
// the stretch in which the run ends; only that stretch is sorted.
void Sampler::cut_top_p(float top_p) {
  uint64_t total = 0;
  int32_t high = INT32_MIN, low = INT32_MAX;
  for (const Candidate& c : candidates_) {
    total += c.mass;
    high = std::max(high, c.key);
    low = std::min(low, c.key);
  }
  const uint64_t p = static_cast<uint64_t>(static_cast<double>(top_p) * 4294967296.0);
  uint64_t target = static_cast<uint64_t>((static_cast<unsigned __int128>(total) * p) >> 32);

  constexpr int32_t kBuckets = 1024;
  const uint32_t range = static_cast<uint32_t>(high) - static_cast<uint32_t>(low);
  int32_t shift = 0;
  while ((range >> shift) >= kBuckets) ++shift;
  const auto bucket = [&](int32_t key) { return (static_cast<uint32_t>(high) - static_cast<uint32_t>(key)) >> shift; };
  bucket_mass_.assign(kBuckets, 0);
  for (const Candidate& c : candidates_) bucket_mass_[bucket(c.key)] += c.mass;
  uint32_t last = 0;
  while (last + 1 < kBuckets && bucket_mass_[last] < target) target -= bucket_mass_[last++];

  sorted_.clear();
  for (const Candidate& c : candidates_) {
    if (bucket(c.key) == last) sorted_.push_back(c);
  }
  if (sorted_.empty()) return;  // top_p so close to 1 that everything is kept
  std::sort(sorted_.begin(), sorted_.end(), [](const Candidate& a, const Candidate& b) {
    return better({a.key, a.id}, {b.key, b.id});
  });
  size_t n = 0;
  for (uint64_t mass = sorted_[0].mass; mass < target && n + 1 < sorted_.size(); mass += sorted_[n].mass) ++n;
  const Boundary boundary{sorted_[n].key, sorted_[n].id};
  std::erase_if(candidates_, [&](const Candidate& c) { return !boundary.keeps(c.key, c.id); });
}

// Keeps candidates of at least min_p times the most likely one, whose weight is 1.
void Sampler::cut_min_p(float min_p) {
  const uint64_t least = static_cast<uint64_t>(min_p * kOne);
  std::erase_if(candidates_, [&](const Candidate& c) { return c.mass < least; });
}

int32_t Sampler::greedy(const float* logits) {
  find_top(logits, 1);
  return top_[0].second;
}

int32_t Sampler::draw(const float* logits, const SamplingParams& params, uint64_t position) {
  Boundary boundary;
  if (params.top_k > 0 && params.top_k < vocab_) {
    find_top(logits, params.top_k);
    boundary = {top_.back().first, top_.back().second};
  }
  collect(logits, params.temperature, boundary);
  if (candidates_.empty()) return greedy(logits);  // every token is banned
  if (params.top_p < 1) cut_top_p(params.top_p);
  if (params.min_p > 0) cut_min_p(params.min_p);
  uint64_t total = 0;
  for (const Candidate& c : candidates_) total += c.mass;
  const Philox4 words = random_words(params.seed, static_cast<uint32_t>(params.choice), position);
  uint64_t point = multiply_high(words.v[0] | static_cast<uint64_t>(words.v[1]) << 32, total);
  for (const Candidate& c : candidates_) {
    if (point < c.mass) return c.id;
    point -= c.mass;
  }
  return candidates_.back().id;  // not reached: point < total
}

int32_t Sampler::sample(float* logits, const SamplingParams& params, const TokenCounts& counts,
                        std::span<const int32_t> banned, uint64_t position, TokenLogprob* logprob_out) {
  require_finite(logits);
  const bool wants_logprob = logprob_out && params.top_logprobs >= 0;
  if (wants_logprob) raw_.assign(logits, logits + vocab_);
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  counts.penalise(params, logits);
  for (const int32_t id : banned) logits[id] = -std::numeric_limits<float>::infinity();
  find_block_maxima(logits);

  const int32_t id = params.temperature == 0 ? greedy(logits) : draw(logits, params, position);
  if (wants_logprob) *logprob_out = logprob(raw_.data(), id, params.top_logprobs);
  return id;
}

TokenLogprob Sampler::logprob(const float* logits, int32_t id, int32_t top) {
  find_block_maxima(logits);
  const float max = key_value(*std::max_element(block_max_.begin(), block_max_.end()));
  uint64_t sum = 0;
  for (int32_t i = 0; i < vocab_; ++i) sum += to_mass(logits[i] - max);
  const float log_sum = log_f32(static_cast<float>(sum) / kOne);
  TokenLogprob out;
  out.logprob = (logits[id] - max) - log_sum;
  if (top > 0) {
    find_top(logits, std::min(top, vocab_));
    for (const auto& [key, i] : top_) out.top.emplace_back(i, (logits[i] - max) - log_sum);
  }
  return out;
}

void validate_sampling(const SamplingParams& p, int64_t vocab) {
  const auto require = [](bool ok, const char* field, const char* expected, double received) {
    if (ok) return;
    throw Error(ErrorCode::kInvalidArgument,
                std::string(field) + " must be " + expected + ", received " + std::to_string(received), field);
  };
  // Comparisons are written so that NaN fails them.
  require(p.temperature >= 0 && p.temperature <= 1e4f, "temperature", "between 0 and 10000", p.temperature);
  require(p.temperature == 0 || p.temperature >= 1e-4f, "temperature", "0 (greedy) or at least 0.0001", p.temperature);
  require(p.top_p > 0 && p.top_p <= 1, "topP", "above 0 and at most 1", p.top_p);
  require(p.top_k >= 0, "topK", "0 (off) or more", p.top_k);
  require(p.min_p >= 0 && p.min_p <= 1, "minP", "between 0 and 1", p.min_p);
  require(std::fabs(p.presence_penalty) <= 100, "presencePenalty", "between -100 and 100", p.presence_penalty);
  require(std::fabs(p.frequency_penalty) <= 100, "frequencyPenalty", "between -100 and 100", p.frequency_penalty);
  require(p.repetition_penalty >= 0.01f && p.repetition_penalty <= 100, "repetitionPenalty", "between 0.01 and 100",
          p.repetition_penalty);
  require(p.choice >= 0, "choice", "0 or more", p.choice);
  require(p.top_logprobs >= -1 && p.top_logprobs <= vocab, "logprobs", "at most the vocabulary's size", p.top_logprobs);
  for (const auto& [id, bias] : p.logit_bias) {
    require(id >= 0 && id < vocab, "logitBias", "keyed by token ids of the vocabulary", id);
    require(std::fabs(bias) <= 1e6f, "logitBias", "between -1000000 and 1000000", bias);
  }
}

}  // namespace qwen3
