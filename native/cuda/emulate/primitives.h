#pragma once

// The primitives of ptx/device.h on the host. The names and parameters are the same but for the source location that
// each call carries into its error messages.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/emulate/block.h"
#include "cuda/ptx/types.h"

#define QWEN3_KERNEL(threads) void
#define QWEN3_KERNEL_OF(threads, blocks) void
#define QWEN3_DEVICE inline
#define QWEN3_UNROLL
#define QWEN3_UNROLL_8
#define QWEN3_ROLLED
#define QWEN3_GRID_CONSTANT

namespace qwen3::cuda {

using emulate::Where;

inline Dim3 thread_index() {
  const auto& block = emulate::Block::current();
  const int i = emulate::Block::current().self().index;
  const auto& n = block.config().threads;
  return {i % n.x, i / n.x % n.y, i / (n.x * n.y)};
}
inline Dim3 block_index() {
  const auto& i = emulate::Block::current().config().block;
  return {i.x, i.y, i.z};
}
inline Dim3 grid_dim() {
  const auto& n = emulate::Block::current().config().grid;
  return {n.x, n.y, n.z};
}
inline Dim3 block_dim() {
  const auto& n = emulate::Block::current().config().threads;
  return {n.x, n.y, n.z};
}

// --- memory ---

template <class T>
T load(const T* p, Where where = Where::current()) {
  auto& block = emulate::Block::current();
  block.global_read(p, sizeof(T), alignof(T), where);
  const int thread = block.self().index;
  block.grouper().global_access(thread / 32, thread % 32, static_cast<int>(where.line()),
                                reinterpret_cast<uintptr_t>(p), sizeof(T), false);
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}
template <class T>
T load_stream(const T* p, Where where = Where::current()) {
  return load(p, where);
}
inline int32_t load_l2(const int32_t* p, Where where = Where::current()) {
  return load(p, where);
}
inline void prefetch_l2(const void* p, Where where = Where::current()) {
  emulate::Block::current().global_read(p, 32, 32, where);
}
// Another block may write the word meanwhile: the thread gives way, so that loops that wait for one end.
template <class T>
T load_volatile(const T* p, Where where = Where::current()) {
  auto& block = emulate::Block::current();
  block.global_poll(p, sizeof(T), alignof(T), where);
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}
template <class T>
void store(T* p, std::type_identity_t<T> value, Where where = Where::current()) {
  auto& block = emulate::Block::current();
  block.global_write(p, sizeof(T), alignof(T), where);
  const int thread = block.self().index;
  block.grouper().global_access(thread / 32, thread % 32, static_cast<int>(where.line()),
                                reinterpret_cast<uintptr_t>(p), sizeof(T), true);
  std::memcpy(p, &value, sizeof(T));
}
// Read and written. Two additions to one element are a race: their order would decide the sum.
template <class T>
void count_reduction(T* p, const Where& where) {
  auto& block = emulate::Block::current();
  block.global_write(p, sizeof(T), alignof(T), where);
  const int thread = block.self().index;
  for (const bool write : {false, true}) {
    block.grouper().global_access(thread / 32, thread % 32, static_cast<int>(where.line()),
                                  reinterpret_cast<uintptr_t>(p), sizeof(T), write);
  }
}
inline void reduce_add(Float4* p, Float4 value, Where where = Where::current()) {
  count_reduction(p, where);
  p->x += value.x, p->y += value.y, p->z += value.z, p->w += value.w;
}
inline void reduce_add(Float2* p, Float2 value, Where where = Where::current()) {
  count_reduction(p, where);
  p->x += value.x, p->y += value.y;
}
inline int32_t atomic_add(int32_t* p, int32_t value, Where where = Where::current()) {
  emulate::Block::current().global_atomic(p, 4, where);
  const int32_t old = *p;
  *p = old + value;
  return old;
}
inline void atomic_add64(uint64_t* p, uint64_t value, Where where = Where::current()) {
  emulate::Block::current().global_atomic(p, 8, where);
  *p += value;
}
inline void thread_fence() {
  emulate::Block::current().device_fence();
}

template <class T>
struct Shared {
  uint32_t base = 0;
  T load(int i = 0, Where where = Where::current()) const {
    T value;
    emulate::Block::current().shared_read(address(i), &value, sizeof(T), where);
    return value;
  }
  void store(int i, T value, Where where = Where::current()) const {
    emulate::Block::current().shared_write(address(i), &value, sizeof(T), where);
  }
  Shared operator+(int i) const { return {address(i)}; }
  template <class U>
  Shared<U> as() const {
    return {base};
  }
  uint32_t address(int i = 0) const { return base + static_cast<uint32_t>(i * static_cast<int>(sizeof(T))); }
};
template <class T>
Shared<T> shared_memory(int byte_offset) {
  return {static_cast<uint32_t>(byte_offset)};
}
inline uint32_t shared_atomic_add(Shared<uint32_t> p, uint32_t value, Where where = Where::current()) {
  return emulate::Block::current().shared_atomic_add(p.address(), value, where);
}

inline void shared_atomic_add64(Shared<uint64_t> p, uint64_t value, Where where = Where::current()) {
  emulate::Block::current().shared_atomic_add64(p.address(), value, where);
}

// --- within a warp ---

uint32_t shuffle_bits(uint32_t value, int source_lane, const Where& where);
uint32_t ballot(bool predicate, Where where = Where::current());
template <class T>
T shuffle(T value, int lane, Where where = Where::current()) {
  static_assert(sizeof(T) == 4);
  return std::bit_cast<T>(shuffle_bits(std::bit_cast<uint32_t>(value), lane, where));
}
template <class T>
T shuffle_xor(T value, int mask, Where where = Where::current()) {
  return cuda::shuffle(value, (thread_index().x % 32) ^ mask, where);
}
template <class T>
T shuffle_up(T value, int delta, Where where = Where::current()) {
  const int lane = thread_index().x % 32;
  return cuda::shuffle(value, lane >= delta ? lane - delta : lane, where);
}
inline uint32_t warp_maximum(uint32_t value, Where where = Where::current()) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint32_t other = shuffle_xor(value, mask, where);
    value = other > value ? other : value;
  }
  return value;
}
inline int popcount(uint32_t bits) {
  return std::popcount(bits);
}
inline void warp_sync(Where where = Where::current()) {
  emulate::Block::current().warp_barrier(where);
}

// --- barriers ---

inline void block_sync(Where where = Where::current()) {
  auto& block = emulate::Block::current();
  block.barrier(0, block.n_threads(), true, where);
}
inline void named_barrier_sync(int id, int threads, Where where = Where::current()) {
  emulate::Block::current().barrier(id, threads, true, where);
}
inline void named_barrier_arrive(int id, int threads, Where where = Where::current()) {
  emulate::Block::current().barrier(id, threads, false, where);
}
inline void mbarrier_init(Shared<uint64_t> barrier, int count, Where where = Where::current()) {
  emulate::Block::current().mbarrier_init(barrier.address(), static_cast<uint32_t>(count), where);
}
inline void fence_mbarrier_init() {
  emulate::Block::current().proxy_fence();
}
inline void mbarrier_arrive(Shared<uint64_t> barrier, Where where = Where::current()) {
  emulate::Block::current().mbarrier_arrive(barrier.address(), 0, where);
}
inline void mbarrier_arrive_expect(Shared<uint64_t> barrier, int bytes, Where where = Where::current()) {
  emulate::Block::current().mbarrier_arrive(barrier.address(), static_cast<uint32_t>(bytes), where);
}
inline void mbarrier_wait(Shared<uint64_t> barrier, int parity, Where where = Where::current()) {
  emulate::Block::current().mbarrier_wait(barrier.address(), static_cast<uint32_t>(parity), where);
}
inline void fence_proxy_async() {
  emulate::Block::current().proxy_fence();
}

// --- asynchronous copies ---

// 16 bytes, of which the first `valid` come from `from` and the rest are zero.
void cp_async16(Shared<uint16_t> to, const void* from, int valid = 16, Where where = Where::current());
inline void cp_async16_once(Shared<uint16_t> to, const void* from, int valid, Where where = Where::current()) {
  cp_async16(to, from, valid, where);
}
inline void cp_async_commit() {
  auto& block = emulate::Block::current();
  block.commit(block.self().copies);
}
template <int kPending>
void cp_async_wait() {
  auto& block = emulate::Block::current();
  block.wait_groups(block.self().copies, kPending, false);
}

void tma_load(Shared<uint16_t> to, const TensorMap& map, Shared<uint64_t> barrier, int c0, int c1,
              Where where = Where::current());
void tma_load(Shared<uint16_t> to, const TensorMap& map, Shared<uint64_t> barrier, int c0, int c1, int c2,
              Where where = Where::current());
void tma_store(const TensorMap& map, Shared<uint16_t> from, int c0, int c1, Where where = Where::current());
inline void tma_prefetch(const TensorMap&) {}
inline void tma_acquire(const TensorMap* map, Where where = Where::current()) {
  emulate::Block::current().global_read(map, sizeof(TensorMap), alignof(TensorMap), where);
}
inline void tma_store_commit() {
  auto& block = emulate::Block::current();
  block.commit(block.self().bulk_stores);
}
template <int kPending>
void tma_store_wait_read() {
  auto& block = emulate::Block::current();
  block.wait_groups(block.self().bulk_stores, kPending, true);
}

// --- matrix instructions ---

void ldmatrix_x4(uint32_t (&r)[4], Shared<uint16_t> row, Where where = Where::current());
void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<uint16_t> row, Where where = Where::current());
void ldmatrix_x2(uint32_t (&r)[2], Shared<uint16_t> row, Where where = Where::current());
void ldmatrix_x2_trans(uint32_t (&r)[2], Shared<uint16_t> row, Where where = Where::current());
void stmatrix_x4(Shared<uint16_t> row, const uint32_t (&r)[4], Where where = Where::current());
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = Where::current());

// Registers that wgmma reads or writes: between the issue and the wait nobody else may touch them.
template <class T, int N>
class WgmmaRegisters {
 public:
  WgmmaRegisters() : fence_(emulate::Block::current().self().wgmma_fences) {}
  T get(int i, Where where = Where::current()) const {
    check(where);
    return v[i];
  }
  void set(int i, T value, Where where = Where::current()) {
    check(where);
    fence_ = emulate::Block::current().self().wgmma_fences;
    v[i] = value;
  }
  T v[N];
  int uses = 0;  // instructions in flight
  bool fenced() const { return emulate::Block::current().self().wgmma_fences > fence_; }

 private:
  void check(const Where& where) const {
    if (uses > 0) {
      emulate::Block::current().fail(emulate::Fault::kRegistersInUse, "before wgmma.wait_group of their product",
                                     where);
    }
  }
  uint32_t fence_;  // wgmma.fence instructions executed when the registers were last modified
};

inline void wgmma_fence() {
  ++emulate::Block::current().self().wgmma_fences;
}
void wgmma_commit(Where where = Where::current());
void wgmma_wait_groups(int pending);
template <int kPending>
void wgmma_wait() {
  wgmma_wait_groups(kPending);
}

struct WgmmaArguments {
  float* d;
  int* d_uses;
  const uint32_t* a;  // null: A comes from shared memory
  int* a_uses;
  bool fenced;
  uint64_t a_descriptor, b_descriptor;
  int n;
  bool a_mn_major, b_mn_major, accumulate;
};
void wgmma_issue(WgmmaArguments arguments, const Where& where);

// D [64, N] (+)= A [64, 16] B [16, N]; both from shared memory.
template <int N, bool kAMnMajor = false, bool kBMnMajor = false>
void wgmma(WgmmaRegisters<float, N / 2>& d, uint64_t a, uint64_t b, bool accumulate, Where where = Where::current()) {
  wgmma_issue({d.v, &d.uses, nullptr, nullptr, d.fenced(), a, b, N, kAMnMajor, kBMnMajor, accumulate}, where);
}
// A from registers, in the layout of mma m16n8k16 per warp.
template <int N, bool kBMnMajor = false>
void wgmma(WgmmaRegisters<float, N / 2>& d, WgmmaRegisters<uint32_t, 4>& a, uint64_t b, bool accumulate,
           Where where = Where::current()) {
  wgmma_issue({d.v, &d.uses, a.v, &a.uses, d.fenced() && a.fenced(), 0, b, N, false, kBMnMajor, accumulate}, where);
}

template <int kRegisters>
void set_max_registers_up() {}
template <int kRegisters>
void set_max_registers_down() {}
inline void grid_dependency_wait() {
  emulate::Block::current().dependency_wait();
}
inline void grid_dependency_launch() {
  emulate::Block::current().dependency_launch();
}

// --- arithmetic ---

// 2^x with subnormal inputs and results flushed, as ex2.approx.ftz.f32.
inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return std::fpclassify(y) == FP_SUBNORMAL ? 0.0f : y;
}
// As div.approx.f32 beyond 2^126.
inline float divide_approx(float a, float b) {
  return std::fabs(b) > 0x1p126f && std::fabs(b) < INFINITY ? 0.0f * a : a / b;
}
inline float round_to_int(float x) {
  return std::nearbyint(x);
}
inline float fma(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float square_root(float x) {
  return std::sqrt(x);
}
inline double cosine(double x) {
  return std::cos(x);
}
inline double sine(double x) {
  return std::sin(x);
}
inline float bits_as_f32(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t f32_as_bits(float value) {
  return std::bit_cast<uint32_t>(value);
}
inline float maximum(float a, float b) {
  return std::fmax(a, b);
}
// Two f32 rounded to bf16, the first in the low half: cvt.rn.bf16x2.f32.
uint32_t pack_bf16(float low, float high);
inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

}  // namespace qwen3::cuda
