#include "cpu/kernels.h"

namespace qwen3::cpu {
namespace {

// clang-format off
#include "cpu/simd_portable.h"
#include "cpu/simd_no_bf16.h"
#include "cpu/kernels_common.inl"
// clang-format on

constexpr KernelTable table = common_table("scalar");

}  // namespace

const KernelTable* kernels_scalar() {
  return &table;
}

}  // namespace qwen3::cpu
