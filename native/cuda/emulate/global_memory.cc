#include "cuda/emulate/global_memory.h"

#include <cstdlib>
#include <cstring>
#include <iterator>

#include "cuda/emulate/grid.h"

namespace qwen3::cuda::emulate {

GlobalMemory& GlobalMemory::device() {
  static GlobalMemory memory;
  return memory;
}

void* GlobalMemory::allocate(size_t bytes, const std::string& name, int device) {
  const std::lock_guard lock(mutex_);
  if (bytes > limit_ || used_[device] > limit_ - bytes) return nullptr;
  // cudaMalloc aligns to 256 bytes. The tail stays outside the range, so that running over the end is seen.
  const size_t rounded = (bytes + 511) / 256 * 256;
  void* pointer = std::aligned_alloc(256, rounded);
  if (!pointer) return nullptr;
  std::memset(pointer, 0xff, rounded);
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  ranges_[begin] = {begin, begin + bytes, name, device};
  used_[device] += bytes;
  return pointer;
}

void GlobalMemory::release(void* pointer) {
  const std::lock_guard lock(mutex_);
  Grid::all_ended();  // cudaFree waits for the device
  const auto it = ranges_.find(reinterpret_cast<uintptr_t>(pointer));
  if (it == ranges_.end()) return;
  used_[it->second.device] -= it->second.end - it->second.begin;
  ranges_.erase(it);
  std::free(pointer);
}

void GlobalMemory::forget(int device) {
  const std::lock_guard lock(mutex_);
  Grid::all_ended();
  for (auto it = ranges_.begin(); it != ranges_.end();) {
    if (it->second.device == device) std::free(reinterpret_cast<void*>(it->first));
    it = it->second.device == device ? ranges_.erase(it) : std::next(it);
  }
  used_[device] = 0;
}

void GlobalMemory::set_limit(size_t bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = bytes;
}

size_t GlobalMemory::used(int device) const {
  const std::lock_guard lock(mutex_);
  const auto found = used_.find(device);
  return found == used_.end() ? 0 : found->second;
}

const GlobalMemory::Range* GlobalMemory::find(uintptr_t address, size_t bytes) const {
  const std::lock_guard lock(mutex_);
  auto it = ranges_.upper_bound(address);
  if (it == ranges_.begin()) return nullptr;
  --it;
  return address + bytes <= it->second.end && address + bytes >= address ? &it->second : nullptr;
}

}  // namespace qwen3::cuda::emulate
