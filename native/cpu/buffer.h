#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace qwen3::cpu {

// Zeroed memory, 64-byte aligned; from 256 kB on it comes from the system page by page as it is touched. `huge` begins
// on a huge page and asks for such pages, which what is read in long streams wants. Throws std::bad_alloc.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes, bool huge = false);
  // A view of memory that `owner` keeps, e.g. a mapped file; it is only read.
  Buffer(const void* data, int64_t bytes, std::shared_ptr<const void> owner)
      : data_(const_cast<void*>(data)), bytes_(bytes), owner_(std::move(owner)) {}
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    std::swap(owner_, other.owner_);
  }
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  bool mapped_ = false;
  std::shared_ptr<const void> owner_;  // of a view
};

}  // namespace qwen3::cpu
