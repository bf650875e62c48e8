#pragma once

// Counts an executable's C++ allocations and lets one of them fail. Included by one file of the executable: it replaces
// operator new and delete.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

std::atomic<bool> count_allocations = false;
std::atomic<int64_t> allocations = 0, live = 0;
int64_t failing_allocation = -1;

void* allocate(size_t bytes, size_t alignment) {
  if (count_allocations && allocations++ == failing_allocation) throw std::bad_alloc();
  void* memory = nullptr;
  if (alignment <= alignof(std::max_align_t))
    memory = std::malloc(bytes ? bytes : 1);
  else
    memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  ++live;
  return memory;
}

void release(void* memory) noexcept {
  if (memory) --live;
  std::free(memory);
}

}  // namespace

void* operator new(size_t bytes) {
  return allocate(bytes, 0);
}
void* operator new[](size_t bytes) {
  return allocate(bytes, 0);
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  release(memory);
}
void operator delete[](void* memory) noexcept {
  release(memory);
}
void operator delete(void* memory, size_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, size_t) noexcept {
  release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  release(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  release(memory);
}
