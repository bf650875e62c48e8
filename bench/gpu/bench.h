#pragma once

// What the cases of gpu_bench share: a stream, random numbers on the device, the limits of this run, lines of JSON.

#include <functional>
#include <string>
#include <vector>

#include "clock.h"
#include "cuda/kernels.h"
#include "cuda/runtime.h"

namespace qwen3::gpu_bench {

// What a case did: the least that the mathematics needs, whatever the kernel moved.
struct Measured {
  double seconds = 0, bytes = 0, flops = 0;
};

class Bench {
 public:
  explicit Bench(bool tiny);
  ~Bench();
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  const bool tiny;  // shapes for the emulation
  const cuda::DeviceDescription device;
  const cuda::Stream stream;
  // Bytes and FLOP per second; 0 until measured. Of reading and of copying (read plus written) the better: a kernel
  // that only reads is faster than any copy.
  double memory_rate = 0, matrix_rate = 0;

  double time(double bytes, const std::function<void(int)>& call) const { return median_seconds(stream, bytes, call); }
  // Random bf16 numbers (normal, 0.05 deviation): part i of as many as fit, 256-byte aligned. bytes: at most the
  // pool's.
  const cuda::Bf16* random(int i, size_t bytes) const;
  // Fills device memory with them.
  void randomise(void* to, size_t bytes) const;
  cuda::DeviceBuffer random_buffer(size_t bytes) const;
  // Reused by every case; what is in it is of no interest.
  void* scratch(size_t bytes);
  // A product of rows that decode, as operations.cc has it.
  void linear_few(const cuda::LinearOperands& operands, const cuda::LinearShape& shape, cuda::Output output,
                  const cuda::StreamFusion& fusion = {}) const;
  void drop_scratch() { scratch_ = cuda::DeviceBuffer(); }  // a large model needs the room

  // One line each. `more`: further members, ", \"name\": value".
  void report(const std::string& name, const Measured& measured, const std::string& more = "") const;
  static void skip(const std::string& name, const std::string& reason);

 private:
  cuda::DeviceBuffer pool_, scratch_, stream_parts_, stream_arrived_;
};

struct Case {
  std::string name;  // "linear/8b.qkv/4096": kind, what, size
  std::function<void(Bench&)> run;
};

std::vector<Case> kernel_cases(bool tiny);
std::vector<Case> moe_cases(bool tiny);
std::vector<Case> step_cases(bool tiny);
std::vector<Case> model_cases(bool tiny);

}  // namespace qwen3::gpu_bench
