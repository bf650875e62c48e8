#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace qwen3::cuda::emulate {

// A stack and the place where its function last stopped. Switching saves the callee-saved registers only: on x86-64 by
// a few instructions (a switch per barrier and thread makes swapcontext's system call the largest cost of an
// emulation), elsewhere by ucontext.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares the fiber to run `entry(argument)` on `stack` at the next switch. `entry` must never return or throw.
  void start(void (*entry)(void*), void* argument, std::byte* stack, size_t bytes);
  // Saves the running context in `from` and continues `to`. `from_ends`: `from` will never be continued.
  static void switch_to(Fiber& from, Fiber& to, bool from_ends = false);
  // To be called first thing on a new fiber.
  static void entered();

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_{};
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  static void trampoline(unsigned high, unsigned low);
#endif
  const void* stack_ = nullptr;  // for AddressSanitizer
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;
};

// Equal stacks in one mapping, each with a guard page below.
class FiberStacks {
 public:
  FiberStacks() = default;
  ~FiberStacks();
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;
  void reserve(size_t n);
  std::byte* stack(size_t i) const { return base_ + i * (kBytes + kGuard) + kGuard; }
  static constexpr size_t kBytes = 192 * 1024, kGuard = 4096;

 private:
  std::byte* base_ = nullptr;
  size_t n_ = 0;
};

}  // namespace qwen3::cuda::emulate
