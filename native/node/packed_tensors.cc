#include "node/packed_tensors.h"

#include <cmath>

#include "core/status.h"

namespace qwen3::node {
namespace {

[[noreturn]] void refuse(const char* why) {
  throw Error(ErrorCode::kInvalidArgument, std::string("tensors: ") + why, "tensors");
}

int64_t size_from(double value) {
  constexpr double kMaxSafeInteger = 9007199254740992.0;  // 2^53
  if (!(value >= 0 && value <= kMaxSafeInteger) || value != std::trunc(value))
    refuse("expected whole sizes below 2^53");
  return static_cast<int64_t>(value);
}

DType dtype_from(char index) {
  switch (index) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kBF16;
    default:
      refuse("expected a dtype from 0 to 2");
  }
}

}  // namespace

std::vector<TensorRef> unpack(const PackedTensors& packed) {
  const size_t n = packed.files.size();
  if (packed.dtypes.size() != n || packed.ranges.size() != 2 * n || packed.shapes.size() != 2 * n) {
    refuse("expected arrays of equal length");
  }
  std::vector<TensorRef> tensors(n);
  size_t at = 0;
  for (size_t i = 0; i < n; ++i) {
    const size_t end = i + 1 < n ? packed.names.find('\n', at) : packed.names.size();
    if (end == std::string::npos || at > end) refuse("expected a name for each");
    TensorRef& tensor = tensors[i];
    tensor.name = packed.names.substr(at, end - at);
    at = end + 1;
    if (packed.files[i] >= packed.paths.size()) refuse("expected a file for each");
    tensor.path = packed.paths[packed.files[i]];
    tensor.dtype = dtype_from(packed.dtypes[i]);
    tensor.offset = size_from(packed.ranges[2 * i]);
    tensor.bytes = size_from(packed.ranges[2 * i + 1]);
    tensor.shape.push_back(size_from(packed.shapes[2 * i]));
    if (const int64_t columns = size_from(packed.shapes[2 * i + 1]); columns > 0) tensor.shape.push_back(columns);
  }
  return tensors;
}

}  // namespace qwen3::node
