// runtime.h on the emulated device. Copies are done at once: a stream of the emulation never runs ahead. Environment
// variables stand for what a machine may be like: QWEN3_EMULATED_DRIVER (a version; 0: none), QWEN3_EMULATED_DEVICES,
// QWEN3_EMULATED_MEMORY (bytes), QWEN3_EMULATED_SCHEDULE (early, late, or a seed), QWEN3_EMULATED_COMPUTE (90: the
// kernels of sm_90a; default 80).

#include "cuda/runtime.h"

#include <cstdlib>
#include <cstring>

#include "cuda/emulate/global_memory.h"
#include "cuda/emulate/launch.h"

namespace qwen3::cuda {
namespace {

int64_t setting(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoll(value, nullptr, 10) : otherwise;
}

}  // namespace

int driver_version() {
  return static_cast<int>(setting("QWEN3_EMULATED_DRIVER", 13000));
}
int device_count() {
  return driver_version() == 0 ? 0 : static_cast<int>(setting("QWEN3_EMULATED_DEVICES", 1));
}

DeviceDescription describe_device(int device) {
  DeviceDescription d;
  d.name = "emulated device " + std::to_string(device);
  const auto compute = static_cast<int>(setting("QWEN3_EMULATED_COMPUTE", 80));
  d.major = compute / 10, d.minor = compute % 10, d.multiprocessors = 2;
  d.hopper = compute == 90;
  d.memory_bytes = setting("QWEN3_EMULATED_MEMORY", int64_t{1} << 30);
  d.free_bytes = d.memory_bytes - static_cast<int64_t>(emulate::GlobalMemory::device().used());
  return d;
}

void use_device(int) {
  const char* text = std::getenv("QWEN3_EMULATED_SCHEDULE");
  if (!text) return;
  auto& schedule = emulate::Session::current().schedule;
  schedule.completion = std::strcmp(text, "early") == 0  ? emulate::Completion::kEarly
                        : std::strcmp(text, "late") == 0 ? emulate::Completion::kLate
                                                         : emulate::Completion::kRandom;
  schedule.seed = std::strtoull(text, nullptr, 10);
  emulate::Session::current().launches.clear();
}
Stream create_stream() {
  return nullptr;
}
void destroy_stream(Stream) {}
void synchronize(Stream) {}

void* allocate(size_t bytes) {
  auto& memory = emulate::GlobalMemory::device();
  memory.set_limit(static_cast<size_t>(setting("QWEN3_EMULATED_MEMORY", int64_t{1} << 30)));
  void* pointer = memory.allocate(bytes, std::to_string(bytes) + " bytes");
  if (!pointer) {
    throw Error(ErrorCode::kOutOfMemory,
                "cudaMalloc of " + std::to_string(bytes) + " bytes: cudaErrorMemoryAllocation (out of memory)");
  }
  return pointer;
}
void release(void* pointer) {
  emulate::GlobalMemory::device().release(pointer);
}
void* allocate_pinned(size_t bytes) {
  void* pointer = std::malloc(bytes);
  if (!pointer) throw Error(ErrorCode::kOutOfMemory, "cudaHostAlloc of " + std::to_string(bytes) + " bytes");
  return pointer;
}
void release_pinned(void* pointer) {
  std::free(pointer);
}

void copy_to_device(Stream, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}
void copy_to_host(Stream, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}
void copy_on_device(Stream, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}
void fill_bytes(Stream, void* to, int byte, size_t bytes) {
  std::memset(to, byte, bytes);
}

}  // namespace qwen3::cuda
