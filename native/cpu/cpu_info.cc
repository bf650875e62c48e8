#include "cpu/cpu_info.h"

#include <unistd.h>

#include "core/thread_pool.h"
#include "cpu/dispatch.h"

namespace qwen3 {

CpuInfo cpu_info() {
  CpuInfo info;
  info.isa = cpu::choose_kernels("auto").name;
  for (const char* level : {"amx", "avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "scalar"}) {
    if (cpu::isa_available(level)) info.levels.push_back(level);
  }
  info.physical_cores = ThreadPool::default_threads();
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0) info.memory_bytes = pages * page;
  return info;
}

}  // namespace qwen3
