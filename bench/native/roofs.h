#pragma once

// What this machine can do at most, measured: bytes read per second and multiply-adds per second, with as many threads
// as the benchmark uses. Every figure beside it is given as a fraction of these.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/buffer.h"
#include "cpu/dispatch.h"

#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif

namespace qwen3::bench {

// Wall time; with `cpu_time` the time that this process ran, which is what counts with one thread on a machine that
// others use as well.
inline bool cpu_time = false;
inline double seconds_now() {
  if (cpu_time) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Reads [begin, end) in `n_streams` equal streams at once; returns something that depends on every byte.
#if defined(__x86_64__)
__attribute__((target("avx512f"))) inline int64_t read_wide(const char* data, int64_t bytes, int n_streams) {
  const int64_t each = bytes / n_streams / 256 * 256;
  __m512i sum[4] = {};
  for (int64_t i = 0; i < each; i += 256) {
    for (int s = 0; s < n_streams; ++s) {
      const char* at = data + s * each + i;
      for (int j = 0; j < 4; ++j) sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(at + 64 * j));
    }
  }
  return _mm512_reduce_add_epi64(_mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3])));
}
#endif

inline int64_t read_plain(const char* data, int64_t bytes, int n_streams) {
  const int64_t each = bytes / n_streams / 64 * 64;
  uint64_t sum[8] = {};
  for (int64_t i = 0; i < each; i += 64) {
    for (int s = 0; s < n_streams; ++s) {
      uint64_t line[8];
      std::memcpy(line, data + s * each + i, sizeof line);
      for (int j = 0; j < 8; ++j) sum[j] ^= line[j];
    }
  }
  return static_cast<int64_t>(sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
}

inline volatile int64_t sink;

// Best GB/s over patterns and rounds, from memory far larger than the caches.
inline double read_bandwidth(ThreadPool& pool, bool wide, int rounds = 4) {
  constexpr int64_t kBytes = int64_t{768} << 20;
  static const cpu::Buffer memory(kBytes, true);
  static bool touched = false;
  if (!touched) {
    pool.parallel_for(64, [&](int64_t i) {
      std::memset(memory.as<char>() + i * (kBytes / 64), 1 + static_cast<int>(i), kBytes / 64);
    });
    touched = true;
  }
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    for (int n_streams : {1, 2, 4}) {
      const double begin = seconds_now();
      constexpr int64_t kTasks = 32;
      pool.parallel_for(kTasks, [&](int64_t i) {
        const char* data = memory.as<char>() + i * (kBytes / kTasks);
#if defined(__x86_64__)
        if (wide) {
          sink = read_wide(data, kBytes / kTasks, n_streams);
          return;
        }
#endif
        sink = read_plain(data, kBytes / kTasks, n_streams);
      });
      best = std::max(best, static_cast<double>(kBytes) / (seconds_now() - begin) / 1e9);
    }
  }
  (void)wide;
  return best;
}

#if defined(__x86_64__)
// 24 independent accumulators: enough to cover the latency of the instruction. The compiler is kept from seeing that
// they hold the same. Returns multiply-adds done.
__attribute__((target("avx512f,avx512bf16"))) inline double spin_bf16(int64_t n) {
  __m512 acc[24] = {};
  const __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80)), b = a;
  for (__m512& chain : acc) asm volatile("" : "+v"(chain));
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < 24; ++j) acc[j] = _mm512_dpbf16_ps(acc[j], a, b);
  }
  for (int j = 1; j < 24; ++j) acc[0] += acc[j];
  sink = static_cast<int64_t>(acc[0][0]);
  return static_cast<double>(n) * 24 * 32;
}
__attribute__((target("avx512f"))) inline double spin_f32_512(int64_t n) {
  __m512 acc[24] = {};
  __m512 a = _mm512_set1_ps(0.5f);
  for (__m512& chain : acc) asm volatile("" : "+v"(chain));
  for (int64_t i = 0; i < n; ++i) {
    asm volatile("" : "+v"(a));
#pragma GCC unroll 24
    for (int j = 0; j < 24; ++j) acc[j] = _mm512_fmadd_ps(a, a, acc[j]);
  }
  for (int j = 1; j < 24; ++j) acc[0] += acc[j];
  sink = static_cast<int64_t>(acc[0][0]);
  return static_cast<double>(n) * 24 * 16;
}
__attribute__((target("avx2,fma"))) inline double spin_f32_256(int64_t n) {
  __m256 acc[12] = {};
  __m256 a = _mm256_set1_ps(0.5f);
  for (__m256& chain : acc) asm volatile("" : "+x"(chain));
  for (int64_t i = 0; i < n; ++i) {
    asm volatile("" : "+x"(a));
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) acc[j] = _mm256_fmadd_ps(a, a, acc[j]);
  }
  for (int j = 1; j < 12; ++j) acc[0] += acc[j];
  sink = static_cast<int64_t>(acc[0][0]);
  return static_cast<double>(n) * 12 * 8;
}
#endif
inline double spin_f32_plain(int64_t n) {
  typedef float F __attribute__((vector_size(16)));
  F acc[8] = {};
  F a = {0.5f, 0.5f, 0.5f, 0.5f};
#if defined(__x86_64__)
  for (F& chain : acc) asm volatile("" : "+x"(chain));
#endif
  for (int64_t i = 0; i < n; ++i) {
#if defined(__x86_64__)
    asm volatile("" : "+x"(a));
#endif
    for (int j = 0; j < 8; ++j) acc[j] = acc[j] + a * a;
  }
  for (int j = 1; j < 8; ++j) acc[0] += acc[j];
  sink = static_cast<int64_t>(acc[0][0]);
  return static_cast<double>(n) * 8 * 4;
}

// FLOP/s of the level's widest multiply-add on all threads; two operations each.
inline double peak_flops(ThreadPool& pool, double (*spin)(int64_t), int rounds = 4) {
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> done(static_cast<size_t>(pool.size()));
    const double begin = seconds_now();
    pool.run([&](ThreadPool::Team& team) { done[static_cast<size_t>(team.thread())] = spin(1500000); });
    double total = 0;
    for (double d : done) total += d;
    best = std::max(best, 2 * total / (seconds_now() - begin));
  }
  return best;
}

struct Roofs {
  double read_gbs = 0, bf16_flops = 0, f32_flops = 0;
};

// bf16 products run at the f32 rate on levels without an instruction for them.
inline Roofs measure_roofs(ThreadPool& pool, const std::string& isa) {
  Roofs roofs;
#if defined(__x86_64__)
  const bool wide = cpu::isa_available("avx512");
  roofs.f32_flops = peak_flops(pool, isa == "scalar" ? spin_f32_plain : isa == "avx2" ? spin_f32_256 : spin_f32_512);
  roofs.bf16_flops = isa == "avx512bf16" ? peak_flops(pool, spin_bf16) : roofs.f32_flops;
#else
  const bool wide = false;
  roofs.f32_flops = roofs.bf16_flops = peak_flops(pool, spin_f32_plain);
#endif
  roofs.read_gbs = read_bandwidth(pool, wide);
  return roofs;
}

}  // namespace qwen3::bench
