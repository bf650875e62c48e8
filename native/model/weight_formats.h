#pragma once

#include <string>

#include "core/dtype.h"
#include "ops/backend.h"

namespace qwen3 {

// "f32", "bf16", "int8", "int4", "int4-offset": the spelling of lib/types.ts.
const char* weight_format_name(WeightFormat format);
// Throws Error(kInvalidArgument, field) for any other spelling.
WeightFormat weight_format_from(const std::string& name, const char* field);

// The format of each kind of matrix; one format stands for all of them. Norms are always f32.
struct WeightFormats {
  WeightFormat weights = WeightFormat::kBF16;    // projections and feed-forward, experts included
  WeightFormat embedding = WeightFormat::kBF16;  // rows looked up by token
  WeightFormat head = WeightFormat::kBF16;       // of the logits

  WeightFormats() = default;
  WeightFormats(WeightFormat all) : weights(all), embedding(all), head(all) {}  // NOLINT(google-explicit-constructor)
  WeightFormats(WeightFormat w, WeightFormat e, WeightFormat h) : weights(w), embedding(e), head(h) {}
  auto operator<=>(const WeightFormats&) const = default;

  // The router is never quantised: it is small, and a changed order of experts is no small error.
  WeightFormat router() const { return weights == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16; }
  // What products take as input: bf16 beside bf16 weights; integer formats quantise f32 activations themselves.
  DType linear_input() const { return weights == WeightFormat::kBF16 ? DType::kBF16 : DType::kF32; }
  DType head_input() const { return head == WeightFormat::kBF16 ? DType::kBF16 : DType::kF32; }
  std::string text() const;  // "int8", or "int4, embedding int8, head int8" where they differ
};

}  // namespace qwen3
