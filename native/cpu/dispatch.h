#pragma once

#include <string_view>

#include "cpu/kernels.h"

namespace qwen3::cpu {

// The kernels of ISA level `isa` ("auto": the best that this machine runs). Throws Error(kUnsupported) for a level that
// the machine or the build lacks, Error(kInvalidArgument) for an unknown name.
const KernelTable& choose_kernels(std::string_view isa);

// True if choose_kernels(isa) would succeed.
bool isa_available(std::string_view isa);

}  // namespace qwen3::cpu
