#pragma once

#include <variant>

#include "ops/program.h"

namespace qwen3::cuda {

// qwen3_cuda_op::kind is the index of the alternative.
enum Kind : int32_t { kEmbed, kRmsNorm, kLinear, kQkNormRope, kAttention, kMoe, kLogits };
static_assert(std::is_same_v<std::variant_alternative_t<kEmbed, Op>, EmbedOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kRmsNorm, Op>, RmsNormOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kLinear, Op>, LinearOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kQkNormRope, Op>, QkNormRopeAppendOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kAttention, Op>, AttentionOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kMoe, Op>, MoeOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kLogits, Op>, LogitsOp>);

}  // namespace qwen3::cuda
