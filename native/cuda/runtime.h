#pragma once

// The driver as the library uses it: devices, memory, copies, streams. device/runtime.cu implements it with the CUDA
// runtime, emulate/runtime.cc with the emulated device. Functions throw Error: kOutOfMemory, kUnsupported, or kInternal
// with CUDA's name of what went wrong.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "core/status.h"
#include "cuda/ptx/types.h"

namespace qwen3::cuda {

// The oldest driver that can run this library, as CUDA counts versions (13000 = 13.0, driver 580).
constexpr int kMinimumDriver = 13000;

struct DeviceDescription {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  bool hopper = false;  // the kernels of sm_90a run here: the chip is a 9.0 and this library has them
  int64_t memory_bytes = 0, free_bytes = 0;
};

int driver_version();  // 0: no driver
int device_count();    // 0 when there is none, whatever the reason
DeviceDescription describe_device(int device);
void use_device(int device);  // for the calling thread

Stream create_stream();
void destroy_stream(Stream stream);
void synchronize(Stream stream);

void* allocate(size_t bytes);
void release(void* pointer);
void* allocate_pinned(size_t bytes);  // host memory that copies at full speed
void release_pinned(void* pointer);

// Ordered on the stream. Host memory must stay until the stream is synchronised.
void copy_to_device(Stream stream, void* to, const void* from, size_t bytes);
void copy_to_host(Stream stream, void* to, const void* from, size_t bytes);
void copy_on_device(Stream stream, void* to, const void* from, size_t bytes);
void fill_bytes(Stream stream, void* to, int byte, size_t bytes);

// Owned device memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes) : data_(bytes ? allocate(bytes) : nullptr), bytes_(bytes) {}
  ~DeviceBuffer() {
    if (data_) release(data_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  // At least `bytes`; what was in it is lost when it grows. The stream must not use it any more.
  void reserve(size_t bytes) {
    if (bytes > bytes_) *this = DeviceBuffer(bytes + bytes / 2);
  }
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Owned pinned memory.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(size_t bytes) : data_(allocate_pinned(bytes)), bytes_(bytes) {}
  ~PinnedBuffer() {
    if (data_) release_pinned(data_);
  }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace qwen3::cuda
