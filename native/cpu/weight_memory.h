#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "cpu/buffer.h"

namespace qwen3::cpu {

// Where packed weights lie: one after the other in large pieces of memory that begin on a huge page, so that all of a
// model is on huge pages. One by one, most matrices of a small or quantised model are smaller than a huge page or share
// its ends with something else, and reading them from 4 kB pages is a quarter slower (measured on Zen 4: 40 against
// 55 GB/s with two threads). A piece goes back to the system with the last weight in it. Thread safe.
class WeightMemory {
 public:
  // Zeroed, 64-byte aligned. Throws std::bad_alloc.
  Buffer take(int64_t bytes);

 private:
  std::mutex mutex_;
  std::weak_ptr<Buffer> piece_;  // kept by the weights in it
  int64_t used_ = 0;
};

}  // namespace qwen3::cpu
