#pragma once

// The primitives that every kernel is written with: one interface, two implementations. nvcc gets inline PTX
// (device.h, wgmma_device.h); a host compiler gets cuda/emulate, where a thread of a block is a fiber and each
// primitive does, and checks, what the PTX ISA says.
//
// Kernels: `template <...> QWEN3_KERNEL(threads) name(arguments by value)`; all lanes of a warp are alive and converged
// at every collective (shuffle, ldmatrix, mma, wgmma): no partial masks.
//   Global memory   load, load_l2, load_stream (read once: past L1), prefetch_l2, store, atomic_add, reduce_add
//   Shared memory   shared_memory<T>(byte offset) -> Shared<T>; .load(i), .store(i, value), + i, .as<U>()
//   Warp            shuffle, shuffle_xor, shuffle_up, ballot, warp_sync
//   Block           block_sync, named_barrier_sync / _arrive (id, threads)
//   mbarrier        mbarrier_init, fence_mbarrier_init, mbarrier_arrive, mbarrier_arrive_expect, mbarrier_wait(parity)
//   Copies          cp_async16, cp_async_commit, cp_async_wait<pending>; tma_load, tma_store, tma_store_commit,
//                   tma_store_wait_read<pending>; fence_proxy_async between generic writes and the async proxy
//   Matrix          ldmatrix_*, stmatrix_x4, mma_bf16 (m16n8k16); wgmma<N>, wgmma_fence, wgmma_commit,
//                   wgmma_wait<pending>
//   Launch          set_max_registers_up / _down, grid_dependency_wait / _launch: by whole warps, as a lane that steps
//                   around a wait is held until its neighbours come back

#include "cuda/ptx/types.h"

#if defined(__CUDACC__)
#include "cuda/ptx/device.h"
#else
#include "cuda/emulate/primitives.h"
#endif

#include "cuda/ptx/descriptor.h"
