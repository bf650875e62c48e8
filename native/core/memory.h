#pragma once

#include <cstdint>
#include <string>

namespace qwen3 {

// Bytes that can be allocated before the machine swaps or a limit kills the process: the least of MemAvailable and what
// the control groups of this process leave (v2 memory.max, v1 memory.limit_in_bytes, at every level). INT64_MAX when
// the system does not say. `root` replaces "/" in tests.
int64_t available_memory(const std::string& root = "/");

// Throws Error(kOutOfMemory) with both numbers when `bytes` do not fit into what is available; `what` names the asker.
void require_memory(int64_t bytes, const std::string& what);
// The same, of what a device has.
void require_memory(int64_t bytes, const std::string& what, int64_t available);

}  // namespace qwen3
