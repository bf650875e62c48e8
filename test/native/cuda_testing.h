#pragma once

// What the tests of the CUDA kernels share. They run on the host emulation, or, compiled with QWEN3_GPU_CHECK, on a GPU
// (gpu_check.cc): there arrays are managed memory, launches block, and nothing is counted.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/dtype.h"
#include "testing.h"

#if defined(QWEN3_GPU_CHECK)

#include <cuda_runtime.h>

#include "cuda/emulate/counters.h"
#include "cuda/runtime.h"

namespace qwen3::cuda::emulate {

// The parts of the emulation that tests name.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n, const std::string& = {}) : n_(n) {
    void* pointer = nullptr;
    if (cudaMallocManaged(&pointer, n * sizeof(T) + 1) != cudaSuccess) throw std::bad_alloc();
    data_ = static_cast<T*>(pointer);
    std::memset(pointer, 0xff, n * sizeof(T));  // poisoned: NaN in every float format
  }
  ~DeviceArray() { cudaFree(const_cast<void*>(static_cast<const void*>(data_))); }
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

struct Session {
  std::vector<Counters> launches{Counters{}};
  static Session& current() {
    static Session session;
    if (session.launches.empty()) session.launches.emplace_back();
    return session;
  }
};

}  // namespace qwen3::cuda::emulate

namespace qwen3::testing {

constexpr bool kCounted = false;
inline bool has_hopper() {
  return cuda::describe_device(0).hopper;
}
template <class Body>
void without_faults(Body body) {
  body();
}
template <class Body>
void on_every_schedule(Body body, int = 3) {
  const int times = std::getenv("QWEN3_GPU_SMALL") ? 1 : 10;
  for (int i = 0; i < times; ++i) {
    body();
    const cudaError_t status = cudaDeviceSynchronize();
    CHECK_MSG(status == cudaSuccess, cudaGetErrorString(status));
  }
}

}  // namespace qwen3::testing

#else

#include "cuda/emulate/global_memory.h"
#include "cuda/ptx/launch.h"

namespace qwen3::testing {

constexpr bool kCounted = true;
inline bool has_hopper() {
  return true;
}

// A fault of the emulation fails the test.
template <class Body>
void without_faults(Body body) {
  try {
    body();
  } catch (const cuda::emulate::EmulationError& error) {
    CHECK_MSG(false, error.what());
  }
}

// Runs `body` with asynchronous work all early, all late, and at `random_schedules` random points; thread and block
// order differ each time.
template <class Body>
void on_every_schedule(Body body, int random_schedules = 3) {
  auto& schedule = cuda::emulate::Session::current().schedule;
  uint64_t n = seed() * 1000;
  for (int i = 0; i < 2 + random_schedules; ++i) {
    schedule.completion = i == 0   ? cuda::emulate::Completion::kEarly
                          : i == 1 ? cuda::emulate::Completion::kLate
                                   : cuda::emulate::Completion::kRandom;
    schedule.seed = ++n;
    // One block after another, in both orders; then some at a time.
    schedule.resident = i < 2 ? 1 : i;
    without_faults(body);
  }
  schedule.resident = 1;
}

}  // namespace qwen3::testing

#endif

namespace qwen3::testing {

// `--counts`: the counts alone, in the full form of their bars (docs/cuda.md has the figures).
inline bool counts_alone(int argc, char** argv) {
  return std::any_of(argv + 1, argv + argc, [](const char* argument) { return std::string(argument) == "--counts"; });
}

}  // namespace qwen3::testing
