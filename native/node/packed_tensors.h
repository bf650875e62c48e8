#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"

namespace qwen3::node {

// `NativeTensors` of lib/native.ts: copied as it is on the JavaScript thread, taken apart on the loading thread.
struct PackedTensors {
  std::string names;  // one a line
  std::vector<std::string> paths;
  std::vector<uint32_t> files;  // [n], index into paths
  std::string dtypes;           // [n], f32, f16, bf16
  std::vector<double> ranges;   // [n, 2], offset and length in bytes
  std::vector<double> shapes;   // [n, 2], rows and columns; columns 0 = a vector
};

// Throws Error(kInvalidArgument, "tensors") when the arrays contradict each other or hold a number that is no size.
std::vector<TensorRef> unpack(const PackedTensors& packed);

}  // namespace qwen3::node
