#pragma once

// Memory whose last element touches a page that cannot be read: an over-read by one byte stops the test.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace qwen3::testing {

template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n) : n_(n) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    inside_ = (n * sizeof(T) + page - 1) / page * page;
    base_ = static_cast<char*>(
        mmap(nullptr, inside_ + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(base_, page, PROT_NONE);
    mprotect(base_ + page + inside_, page, PROT_NONE);
    total_ = inside_ + 2 * page;
    data_ = reinterpret_cast<T*>(base_ + page + inside_ - n * sizeof(T));
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(values.size()) {
    if (!values.empty()) std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }
  ~Guarded() { munmap(base_, total_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  size_t size() const { return n_; }
  T& operator[](size_t i) { return data_[i]; }

 private:
  size_t n_ = 0, inside_ = 0, total_ = 0;
  char* base_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace qwen3::testing
