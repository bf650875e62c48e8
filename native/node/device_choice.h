#pragma once

#include <string>

#include "node/convert.h"

namespace qwen3::node {

// The device that a load takes. `device: 'auto'` is the first GPU that can be used, has the kernels for this model and
// these formats and has room for the weights; else, or where an option of the CPU is forced (`isa`), the CPU. Anything
// else is taken at its word. Opens the CUDA library and asks the driver: not for the event loop.
std::string choose_device(const LoadSpec& spec);

}  // namespace qwen3::node
