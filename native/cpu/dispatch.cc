#include "cpu/dispatch.h"

#include <string>

#include "core/status.h"

namespace qwen3::cpu {
namespace {

struct Level {
  std::string_view name;
  const KernelTable* (*kernels)();
  bool (*runs_here)();
};

#if defined(__x86_64__)
// These also ask whether the operating system saves the wide registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
bool has_avx512bf16() {
  return has_avx512vnni() && __builtin_cpu_supports("avx512bf16");
}
#else
bool has_avx2() {
  return false;
}
bool has_avx512() {
  return false;
}
bool has_avx512vnni() {
  return false;
}
bool has_avx512bf16() {
  return false;
}
#endif

constexpr Level kLevels[] = {
    // best first
    {"avx512bf16", kernels_avx512bf16, has_avx512bf16},
    {"avx512vnni", kernels_avx512vnni, has_avx512vnni},
    {"avx512", kernels_avx512, has_avx512},
    {"avx2", kernels_avx2, has_avx2},
    {"scalar", kernels_scalar, [] { return true; }},
    // Known, without kernels in this version: asking for them is no misspelling.
    {"amx", []() -> const KernelTable* { return nullptr; }, [] { return false; }},
    {"neon", []() -> const KernelTable* { return nullptr; }, [] { return false; }},
};

bool usable(const Level& level) {
  return level.kernels() && level.runs_here();
}

}  // namespace

bool isa_available(std::string_view isa) {
  if (isa == "auto") return true;
  for (const Level& level : kLevels) {
    if (level.name == isa) return usable(level);
  }
  return false;
}

const KernelTable& choose_kernels(std::string_view isa) {
  for (const Level& level : kLevels) {
    if (isa == "auto" && usable(level)) return *level.kernels();
    if (isa == level.name) {
      if (usable(level)) return *level.kernels();
      throw Error(ErrorCode::kUnsupported,
                  "this processor, operating system or build lacks the instruction set '" + std::string(isa) +
                      "'; use 'auto', or a lower one of avx512bf16, avx512vnni, avx512, avx2, scalar",
                  "isa");
    }
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      "isa must be one of auto, avx512bf16, avx512vnni, avx512, avx2, scalar, received '" + std::string(isa) + "'",
      "isa");
}

int64_t attention_scratch_bytes(int64_t rows, int64_t head_dim) {
  const auto part = [](int64_t floats) { return (floats * 4 + 63) / 64 * 64; };
  const int64_t v_cols = (head_dim + 15) / 16 * 16;
  const int64_t int8 = part(kKeys * v_cols) + 2 * part(rows) + part((rows * v_cols + 3) / 4);
  return part(rows * head_dim) + 2 * part(rows * kKeys) + 2 * part(rows * v_cols) + 5 * part(rows) + int8;
}

}  // namespace qwen3::cpu
