#pragma once

#include <cstdint>

#include "core/status.h"

namespace qwen3 {

// Sums and products of sizes that come from a file or a caller. Both throw kInvalidArgument on overflow; operands are
// non-negative by contract and negative ones are refused too.
inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t out;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &out)) {
    throw Error(ErrorCode::kInvalidArgument,
                "a size overflows 64 bits; the model or option that asked for it is not usable");
  }
  return out;
}

inline int64_t checked_add(int64_t a, int64_t b) {
  int64_t out;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &out)) {
    throw Error(ErrorCode::kInvalidArgument,
                "a size overflows 64 bits; the model or option that asked for it is not usable");
  }
  return out;
}

}  // namespace qwen3
