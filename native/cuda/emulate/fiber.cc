#include "cuda/emulate/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// System V ABI: rbx, rbp and r12 to r15 belong to the caller. A new fiber's stack holds them as start() laid them out,
// with the entry function in r12 and its argument in r13.
extern "C" void qwen3_fiber_switch(void** save, void* load);
extern "C" void qwen3_fiber_begin();
asm(R"(
.text
.globl qwen3_fiber_switch
.hidden qwen3_fiber_switch
.type qwen3_fiber_switch, @function
qwen3_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size qwen3_fiber_switch, .-qwen3_fiber_switch
.globl qwen3_fiber_begin
.hidden qwen3_fiber_begin
.type qwen3_fiber_begin, @function
qwen3_fiber_begin:
  movq %r13, %rdi
  call *%r12
  ud2
.size qwen3_fiber_begin, .-qwen3_fiber_begin
)");
#endif

namespace qwen3::cuda::emulate {
namespace {

// A fiber that a fault ended left its frames' redzones behind.
void forget_frames([[maybe_unused]] std::byte* stack, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack, bytes);
#endif
}

}  // namespace

#if defined(__x86_64__)
void Fiber::start(void (*entry)(void*), void* argument, std::byte* stack, size_t bytes) {
  stack_ = stack, stack_bytes_ = bytes, fake_stack_ = nullptr;
  forget_frames(stack, bytes);
  auto* top = reinterpret_cast<uintptr_t*>(stack + bytes);
  *--top = 0, *--top = 0;  // the stack is 16-byte aligned at the call
  *--top = reinterpret_cast<uintptr_t>(&qwen3_fiber_begin);
  *--top = 0;                                      // rbp
  *--top = 0;                                      // rbx
  *--top = reinterpret_cast<uintptr_t>(entry);     // r12
  *--top = reinterpret_cast<uintptr_t>(argument);  // r13
  *--top = 0;                                      // r14
  *--top = 0;                                      // r15
  stack_pointer_ = top;
}
#else
void Fiber::trampoline(unsigned high, unsigned low) {
  auto* fiber = reinterpret_cast<Fiber*>((uint64_t{high} << 32) | low);
  fiber->entry_(fiber->argument_);
}

void Fiber::start(void (*entry)(void*), void* argument, std::byte* stack, size_t bytes) {
  stack_ = stack, stack_bytes_ = bytes, fake_stack_ = nullptr;
  forget_frames(stack, bytes);
  entry_ = entry, argument_ = argument;
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  const auto self = reinterpret_cast<uint64_t>(this);
  makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::trampoline), 2, static_cast<unsigned>(self >> 32),
              static_cast<unsigned>(self));
}
#endif

namespace {
#if defined(__SANITIZE_ADDRESS__)
thread_local const void* scheduler_stack = nullptr;
thread_local size_t scheduler_bytes = 0;
#endif
}  // namespace

void Fiber::switch_to(Fiber& from, Fiber& to, [[maybe_unused]] bool from_ends) {
#if defined(__SANITIZE_ADDRESS__)
  // Only fibers know their stacks from start(); the scheduler's is what a fiber was told when it was entered.
  const void* stack = to.stack_ ? to.stack_ : scheduler_stack;
  const size_t bytes = to.stack_ ? to.stack_bytes_ : scheduler_bytes;
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.fake_stack_, stack, bytes);
#endif
#if defined(__x86_64__)
  qwen3_fiber_switch(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const bool in_fiber = from.stack_ != nullptr;
  __sanitizer_finish_switch_fiber(from.fake_stack_, in_fiber ? &scheduler_stack : nullptr,
                                  in_fiber ? &scheduler_bytes : nullptr);
#endif
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
#endif
}

FiberStacks::~FiberStacks() {
  if (base_) munmap(base_, n_ * (kBytes + kGuard));
}

void FiberStacks::reserve(size_t n) {
  if (n <= n_) return;
  if (base_) munmap(base_, n_ * (kBytes + kGuard));
  void* mapped = mmap(nullptr, n * (kBytes + kGuard), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    base_ = nullptr, n_ = 0;
    throw std::bad_alloc();
  }
  base_ = static_cast<std::byte*>(mapped), n_ = n;
  for (size_t i = 0; i < n; ++i) mprotect(base_ + i * (kBytes + kGuard), kGuard, PROT_NONE);
}

}  // namespace qwen3::cuda::emulate
