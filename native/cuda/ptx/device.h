#pragma once

// The primitives as PTX, for nvcc. What needs a newer architecture traps on an older one: the launchers choose, never
// the kernels. PTX ISA 9.0.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <type_traits>

#define QWEN3_KERNEL(threads) __global__ void __launch_bounds__(threads)
// Registers for so many blocks of it on a multiprocessor.
#define QWEN3_KERNEL_OF(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define QWEN3_DEVICE __device__ __forceinline__
#define QWEN3_UNROLL _Pragma("unroll")
#define QWEN3_UNROLL_8 _Pragma("unroll 8")
#define QWEN3_ROLLED _Pragma("unroll 1")
#define QWEN3_GRID_CONSTANT __grid_constant__

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define QWEN3_HOPPER 1
#else
#define QWEN3_HOPPER 0
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define QWEN3_SM90 1
#else
#define QWEN3_SM90 0
#endif

namespace qwen3::cuda {

QWEN3_DEVICE Dim3 thread_index() {
  return {static_cast<int>(threadIdx.x), static_cast<int>(threadIdx.y), static_cast<int>(threadIdx.z)};
}
QWEN3_DEVICE Dim3 block_index() {
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
}
QWEN3_DEVICE Dim3 grid_dim() {
  return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
}
QWEN3_DEVICE Dim3 block_dim() {
  return {static_cast<int>(blockDim.x), static_cast<int>(blockDim.y), static_cast<int>(blockDim.z)};
}

// --- memory ---

template <class T>
QWEN3_DEVICE T load(const T* p) {
  return *p;
}
template <class T>
QWEN3_DEVICE T load_volatile(const T* p) {
  return *const_cast<const volatile T*>(p);
}
// Past the L1, which may hold what was there before.
QWEN3_DEVICE int32_t load_l2(const int32_t* p) {
  return __ldcg(p);
}
// The 32 bytes there, into L2.
QWEN3_DEVICE void prefetch_l2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}
// Weights are read once per step: they need not displace activations from L1.
template <class T>
QWEN3_DEVICE T load_stream(const T* p) {
  static_assert(sizeof(T) == 16);
  T out;
  auto* w = reinterpret_cast<uint32_t*>(&out);
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "l"(p));
  return out;
}
template <class T>
QWEN3_DEVICE void store(T* p, std::type_identity_t<T> value) {
  *p = value;
}
// *p += value, each of the four by itself: nothing comes back, so nobody waits. One addition to each element: the order
// of several is not defined.
QWEN3_DEVICE void reduce_add(Float4* p, Float4 value) {
#if QWEN3_SM90
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(value.x), "f"(value.y), "f"(value.z),
               "f"(value.w)
               : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void reduce_add(Float2* p, Float2 value) {
#if QWEN3_SM90
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(p), "f"(value.x), "f"(value.y) : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE int32_t atomic_add(int32_t* p, int32_t value) {
  return atomicAdd(p, value);
}
QWEN3_DEVICE void atomic_add64(uint64_t* p, uint64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value));
}
// Release ahead of an atomic of the same thread, acquire behind one: all that our joins need. __threadfence() is the
// sequentially consistent one, which costs more.
QWEN3_DEVICE void thread_fence() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

template <class T>
struct Shared {
  T* p;
  QWEN3_DEVICE T load(int i = 0) const { return p[i]; }
  QWEN3_DEVICE void store(int i, T value) const { p[i] = value; }
  QWEN3_DEVICE Shared operator+(int i) const { return {p + i}; }
  template <class U>
  QWEN3_DEVICE Shared<U> as() const {
    return {reinterpret_cast<U*>(p)};
  }
  QWEN3_DEVICE uint32_t address(int i = 0) const { return static_cast<uint32_t>(__cvta_generic_to_shared(p + i)); }
};
template <class T>
QWEN3_DEVICE Shared<T> shared_memory(int byte_offset) {
  extern __shared__ __align__(1024) unsigned char qwen3_shared[];
  return {reinterpret_cast<T*>(qwen3_shared + byte_offset)};
}
QWEN3_DEVICE uint32_t shared_atomic_add(Shared<uint32_t> p, uint32_t value) {
  return atomicAdd(p.p, value);
}

QWEN3_DEVICE void shared_atomic_add64(Shared<uint64_t> p, uint64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(p.p), static_cast<unsigned long long>(value));
}

// --- within a warp ---

template <class T>
QWEN3_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <class T>
QWEN3_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
QWEN3_DEVICE T shuffle_up(T value, int delta) {
  return __shfl_up_sync(0xffffffffu, value, delta);
}
QWEN3_DEVICE uint32_t ballot(bool predicate) {
  return __ballot_sync(0xffffffffu, predicate);
}
QWEN3_DEVICE uint32_t warp_maximum(uint32_t value) {
  return __reduce_max_sync(0xffffffffu, value);
}
QWEN3_DEVICE int popcount(uint32_t bits) {
  return __popc(bits);
}
QWEN3_DEVICE void warp_sync() {
  __syncwarp();
}

// --- barriers ---

QWEN3_DEVICE void block_sync() {
  __syncthreads();
}
QWEN3_DEVICE void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
QWEN3_DEVICE void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
QWEN3_DEVICE void mbarrier_init(Shared<uint64_t> barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier.address()), "r"(count) : "memory");
}
QWEN3_DEVICE void fence_mbarrier_init() {
#if QWEN3_SM90
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void mbarrier_arrive(Shared<uint64_t> barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(barrier.address()) : "memory");
}
QWEN3_DEVICE void mbarrier_arrive_expect(Shared<uint64_t> barrier, int bytes) {
#if QWEN3_SM90
  asm volatile(
      "{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(barrier.address()),
      "r"(bytes)
      : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void mbarrier_wait(Shared<uint64_t> barrier, int parity) {
#if QWEN3_SM90
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra FINISHED;\n"
      "bra AGAIN;\n"
      "FINISHED:\n"
      "}" ::"r"(barrier.address()),
      "r"(parity)
      : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void fence_proxy_async() {
#if QWEN3_SM90
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

// --- asynchronous copies ---

QWEN3_DEVICE void cp_async16(Shared<uint16_t> to, const void* from, int valid = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.address()), "l"(from), "r"(valid) : "memory");
}
// The same for what nobody reads again: the first that the L2 gives up.
QWEN3_DEVICE void cp_async16_once(Shared<uint16_t> to, const void* from, int valid) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to.address()), "l"(from),
               "r"(valid), "l"(policy)
               : "memory");
}
QWEN3_DEVICE void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
QWEN3_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

QWEN3_DEVICE void tma_load(Shared<uint16_t> to, const TensorMap& map, Shared<uint64_t> barrier, int c0, int c1) {
#if QWEN3_SM90
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(to.address()),
      "l"(&map), "r"(barrier.address()), "r"(c0), "r"(c1)
      : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void tma_load(Shared<uint16_t> to, const TensorMap& map, Shared<uint64_t> barrier, int c0, int c1,
                           int c2) {
#if QWEN3_SM90
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(to.address()),
      "l"(&map), "r"(barrier.address()), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void tma_store(const TensorMap& map, Shared<uint16_t> from, int c0, int c1) {
#if QWEN3_SM90
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(from.address()), "r"(c0), "r"(c1)
               : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void tma_prefetch(const TensorMap& map) {
#if QWEN3_SM90
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}
// Before the first use of a map that lies in global memory (CUDA C++ Programming Guide, "Tensor map in global memory").
QWEN3_DEVICE void tma_acquire(const TensorMap* map) {
#if QWEN3_SM90
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
#endif
}
QWEN3_DEVICE void tma_store_commit() {
#if QWEN3_SM90
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}
template <int kPending>
QWEN3_DEVICE void tma_store_wait_read() {
#if QWEN3_SM90
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
#endif
}

// --- matrix instructions ---

QWEN3_DEVICE void ldmatrix_x4(uint32_t (&r)[4], Shared<uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address())
               : "memory");
}
QWEN3_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address())
               : "memory");
}
QWEN3_DEVICE void ldmatrix_x2(uint32_t (&r)[2], Shared<uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.address())
               : "memory");
}
QWEN3_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], Shared<uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.address())
               : "memory");
}
QWEN3_DEVICE void stmatrix_x4(Shared<uint16_t> row, const uint32_t (&r)[4]) {
#if QWEN3_SM90
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row.address()), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <class T, int N>
struct WgmmaRegisters {
  T v[N];
  QWEN3_DEVICE T get(int i) const { return v[i]; }
  QWEN3_DEVICE void set(int i, T value) { v[i] = value; }
};
QWEN3_DEVICE void wgmma_fence() {
#if QWEN3_HOPPER
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}
QWEN3_DEVICE void wgmma_commit() {
#if QWEN3_HOPPER
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kPending>
QWEN3_DEVICE void wgmma_wait() {
#if QWEN3_HOPPER
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

template <int kRegisters>
QWEN3_DEVICE void set_max_registers_up() {
#if QWEN3_HOPPER
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
QWEN3_DEVICE void set_max_registers_down() {
#if QWEN3_HOPPER
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
// Programmatic dependent launch: wait for the writes of the previous kernel; let the next one begin its prologue.
QWEN3_DEVICE void grid_dependency_wait() {
#if QWEN3_SM90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
QWEN3_DEVICE void grid_dependency_launch() {
#if QWEN3_SM90
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- arithmetic ---

QWEN3_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Within 2 ulp; 0 where |b| is beyond 2^126 (PTX ISA, "div.approx.f32").
QWEN3_DEVICE float divide_approx(float a, float b) {
  return __fdividef(a, b);
}
QWEN3_DEVICE float round_to_int(float x) {
  return rintf(x);
}
QWEN3_DEVICE float fma(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
QWEN3_DEVICE float square_root(float x) {
  return __fsqrt_rn(x);
}
QWEN3_DEVICE float maximum(float a, float b) {
  return fmaxf(a, b);
}
QWEN3_DEVICE double cosine(double x) {
  return ::cos(x);
}
QWEN3_DEVICE double sine(double x) {
  return ::sin(x);
}
QWEN3_DEVICE float bits_as_f32(uint32_t bits) {
  return __uint_as_float(bits);
}
QWEN3_DEVICE uint32_t f32_as_bits(float value) {
  return __float_as_uint(value);
}
QWEN3_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
QWEN3_DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) {
  return __umul64hi(a, b);
}

}  // namespace qwen3::cuda

#include "cuda/ptx/wgmma_device.h"
