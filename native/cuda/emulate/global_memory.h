#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace qwen3::cuda::emulate {

// The memory of the emulated devices: kernels may touch what lies in here and nothing else. Fresh memory is filled with
// 0xff bytes (NaN in every float format), as a device's is with whatever was there. Thread safe.
class GlobalMemory {
 public:
  static GlobalMemory& device();

  // Null when fewer than `bytes` are left of the limit: the emulated out-of-memory.
  void* allocate(size_t bytes, const std::string& name, int device = 0);
  void release(void* pointer);
  void forget(int device);  // everything there is given back
  // Bytes that may be allocated on a device; for tests of failing allocations.
  void set_limit(size_t bytes);
  size_t used(int device = 0) const;

  struct Range {
    uintptr_t begin = 0, end = 0;
    std::string name;
    int device = 0;
  };
  // The allocation that holds [address, address + bytes), or null.
  const Range* find(uintptr_t address, size_t bytes) const;

 private:
  mutable std::mutex mutex_;
  std::map<uintptr_t, Range> ranges_;  // by begin
  std::map<int, size_t> used_;         // by device
  size_t limit_ = SIZE_MAX;
};

// A typed array in emulated device memory, for tests.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n, const std::string& name = "array") : n_(n) {
    data_ = static_cast<T*>(GlobalMemory::device().allocate(n * sizeof(T), name));
  }
  ~DeviceArray() {
    if (data_) GlobalMemory::device().release(data_);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() const { return data_; }
  size_t size() const { return n_; }
  T& operator[](size_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + n_; }

 private:
  T* data_ = nullptr;
  size_t n_;
};

}  // namespace qwen3::cuda::emulate
