#pragma once

#include <cstddef>

#include "cuda/ptx/types.h"
#include "ops/sampling.h"

namespace qwen3::cuda {

// One row's sampling, as engine/sampler.h has it. Adjustments are the row's part of the array given to sample().
struct alignas(16) SamplingRow {
  float temperature;  // 0: greedy; below 0: padding, nothing is drawn
  int32_t top_k;      // 0: off
  uint64_t top_p;     // floor(top_p * 2^32); 2^32: off
  uint64_t min_mass;  // floor(min_p * 2^39); 0: off
  float presence_penalty, frequency_penalty, repetition_penalty;
  int32_t adjustments_begin, adjustments_end;
  int32_t masked;  // whether the row's bits of the mask count
  uint64_t seed, position;
  int32_t choice;
  // Where penalties must see once more a token that the adjustments do not know yet: its place in `inputs`; -1: none.
  int32_t input_row;
  int32_t logprobs;  // one more than the alternatives whose log-probabilities are wanted beside the token's; 0: none
};
SamplingRow sampling_row(float temperature, float top_p, int32_t top_k, float min_p);

// What penalties, biases and bans do to one token of a row. Each id at most once.
struct alignas(16) TokenAdjustment {
  int32_t id;
  float bias;
  int32_t count;  // times generated; 0: in the prompt only; -1: penalties do not see it
  int32_t banned;
};

// Draws a token per row, the same as engine/sampler.cc for the same logits: weights are 64-bit fixed point, so no order
// of summation matters. logits: f32 [n_rows, vocab], vocab below 2^24; those of adjusted rows are overwritten. mask:
// bits of allowed tokens, u32 [n_rows, ceil(vocab / 32)], may be null. ids: i32 [n_rows]; -1 where a logit was not
// finite. scratch: sampling_scratch_bytes, zero before the first launch; each leaves what the next one needs, whatever
// its rows.
void sample(Stream stream, float* logits, int n_rows, int vocab, const SamplingRow* rows,
            const TokenAdjustment* adjustments, const uint32_t* mask, int32_t* ids, void* scratch,
            const int32_t* inputs = nullptr);
size_t sampling_scratch_bytes(int n_rows, int vocab);

// Log-probabilities of a row as engine/sampler.cc has them: log softmax of the logits, not adjusted, at the drawn token
// and at the n most likely ones, the best first, ties to the lower id.
// Whether log_probabilities can serve a row: sample() must leave its logits as they were, and few alternatives be
// asked.
bool gives_logprobs(const SamplingRow& row, int vocab);
// For the rows that want them; nothing is written where ids is negative. Behind sample(), with the same logits, rows,
// ids and scratch.
void log_probabilities(Stream stream, const float* logits, int n_rows, int vocab, const SamplingRow* rows,
                       const int32_t* ids, RowLogprobs* out, void* scratch);

}  // namespace qwen3::cuda
