#include "cpu/dispatch.h"

#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
bool has_avxvnni() {  // its registers are AVX2's; not every compiler's __builtin_cpu_supports knows the name
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
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
// The registers of tiles are saved for a process only once it has asked for that (Linux,
// Documentation/arch/x86/xstate.rst); what it was granted holds for all of its threads.
bool has_amx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kAll = kBf16 | kTile | kInt8;  // leaf 7, EDX
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAll) != kAll) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
}
#else
bool has_amx() {
  return false;
}
bool has_avx2() {
  return false;
}
bool has_avxvnni() {
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
    {"amx", kernels_amx, has_amx},
    {"avx512bf16", kernels_avx512bf16, has_avx512bf16},
    {"avx512vnni", kernels_avx512vnni, has_avx512vnni},
    {"avx512", kernels_avx512, has_avx512},
    {"avxvnni", kernels_avxvnni, has_avxvnni},
    {"avx2", kernels_avx2, has_avx2},
    {"scalar", kernels_scalar, [] { return true; }},
    // Known, without kernels in this version: asking for them is no misspelling.
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
                      "'; use 'auto', or a lower one of amx, avx512bf16, avx512vnni, avx512, avxvnni, avx2, scalar",
                  "isa");
    }
  }
  throw Error(ErrorCode::kInvalidArgument,
              "isa must be one of auto, amx, avx512bf16, avx512vnni, avx512, avxvnni, avx2, scalar, received '" +
                  std::string(isa) + "'",
              "isa");
}

int64_t attention_scratch_bytes(int64_t rows, int64_t head_dim) {
  const auto part = [](int64_t floats) { return (floats * 4 + 63) / 64 * 64; };
  const int64_t v_cols = (head_dim + 15) / 16 * 16;
  const int64_t int8 = part(kKeys * v_cols) + 2 * part(rows) + part((rows * v_cols + 3) / 4);
  return part(rows * head_dim) + 2 * part(rows * kKeys) + 2 * part(rows * v_cols) + 5 * part(rows) + int8;
}

}  // namespace qwen3::cpu
