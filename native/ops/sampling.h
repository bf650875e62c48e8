#pragma once

#include <cstdint>
#include <span>

namespace qwen3 {

// What bias, penalties and bans do to one token of a row of logits, in this order: + bias; where count >= 0 the
// repetition penalty, and where count > 0 frequency * count + presence; banned: never drawn.
struct LogitAdjustment {
  int32_t id = 0;
  float bias = 0;
  int32_t count = -1;  // times generated; 0: in the prompt only; -1: penalties do not see it
  bool banned = false;
};

// How a device draws one row's token: the rules and the tokens of engine/sampler.h.
struct RowSampling {
  float temperature = 1.0f;  // 0: greedy
  float top_p = 1.0f, min_p = 0.0f;
  int32_t top_k = 0;  // 0: off
  float presence_penalty = 0, frequency_penalty = 0, repetition_penalty = 1;
  uint64_t seed = 0, position = 0;  // the generator's counters; position of the token that is drawn
  int32_t choice = 0;
  // The token that this row reads was drawn by the step before and is not in `adjustments` yet: penalties see it once
  // more than they say.
  bool counts_input = false;
  // Log-probabilities of the row, before adjustments: -1: none; 0: of the token that is drawn; n: and of the n most
  // likely ones.
  int32_t top_logprobs = -1;
  std::span<const LogitAdjustment> adjustments;  // each id at most once
};

// What a device says of a row that asks for log-probabilities; alternatives best first, ties to the lower id.
constexpr int32_t kMostDeviceLogprobs = 20;
struct RowLogprobs {
  float chosen;
  int32_t n;
  int32_t ids[kMostDeviceLogprobs];
  float values[kMostDeviceLogprobs];
};

// How far a row's bits are independent of everything but its own sequence. kBatch: of the other rows of a step and
// their number; a decoded position may differ in its last bits from the same position prefilled. kFull: of that too. On
// the CPU every row is as in kFull.
enum class BatchInvariance : uint8_t { kBatch, kFull };

}  // namespace qwen3
