#include "model/weight_formats.h"

#include "core/status.h"

namespace qwen3 {
namespace {

struct Name {
  const char* text;
  WeightFormat format;
};
constexpr Name kNames[] = {{"f32", WeightFormat::kF32},
                           {"bf16", WeightFormat::kBF16},
                           {"int8", WeightFormat::kInt8},
                           {"int4", WeightFormat::kInt4},
                           {"int4-offset", WeightFormat::kInt4Offset}};

}  // namespace

const char* weight_format_name(WeightFormat format) {
  for (const Name& name : kNames) {
    if (name.format == format) return name.text;
  }
  throw Error(ErrorCode::kInternal, "a weight format without a name");
}

WeightFormat weight_format_from(const std::string& name, const char* field) {
  for (const Name& known : kNames) {
    if (name == known.text) return known.format;
  }
  throw Error(ErrorCode::kInvalidArgument,
              std::string(field) + " must be f32, bf16, int8, int4 or int4-offset, received '" + name + "'", field);
}

std::string WeightFormats::text() const {
  std::string text = weight_format_name(weights);
  if (embedding != weights) text += std::string(", embedding ") + weight_format_name(embedding);
  if (head != weights) text += std::string(", head ") + weight_format_name(head);
  return text;
}

}  // namespace qwen3
