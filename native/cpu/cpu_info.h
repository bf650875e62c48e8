#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qwen3 {

// What this machine offers the CPU backend.
struct CpuInfo {
  std::string isa;                  // what create_cpu_backend(.., "auto") picks
  std::vector<std::string> levels;  // every level that runs here, best first
  int physical_cores = 0;           // the default number of threads: affinity and cgroup limits kept
  int64_t memory_bytes = 0;         // of the machine
};
CpuInfo cpu_info();

}  // namespace qwen3
