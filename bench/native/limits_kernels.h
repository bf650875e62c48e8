#pragma once

// The inner loops of machine_limits.cc, one for each ISA level; which of them may run is decided at run time.

#include <cstdint>

#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif

namespace qwen3::bench {

// Bytes of one stream that are read before the next stream's turn.
constexpr int64_t kTurn = 256;

// Reads `n_streams` parts of `each` bytes (a multiple of kTurn), one after the other in memory; the result depends on
// every byte. `ahead`: bytes, see ReadPattern. The prefetch may run past the end: it faults never.
using ReadLoop = int64_t (*)(const char* data, int64_t each, int n_streams, int64_t ahead);
// `n` rounds of independent multiply-adds, more of them than the latency needs; returns multiply-adds done.
using SpinLoop = double (*)(int64_t n);

inline volatile int64_t sink;

#if defined(__x86_64__)

template <int kHint>
__attribute__((target("avx512f"))) inline int64_t read_512(const char* data, int64_t each, int n_streams,
                                                           int64_t ahead) {
  __m512i sum[4] = {};
  for (int64_t i = 0; i < each; i += kTurn) {
    for (int s = 0; s < n_streams; ++s) {
      const char* at = data + s * each + i;
      for (int j = 0; j < 4; ++j) {
        if (kHint >= 0) _mm_prefetch(at + ahead + 64 * j, static_cast<_mm_hint>(kHint < 0 ? 0 : kHint));
        sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(at + 64 * j));
      }
    }
  }
  return _mm512_reduce_add_epi64(_mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3])));
}

template <int kHint>
__attribute__((target("avx2"))) inline int64_t read_256(const char* data, int64_t each, int n_streams, int64_t ahead) {
  __m256i sum[8] = {};
  for (int64_t i = 0; i < each; i += kTurn) {
    for (int s = 0; s < n_streams; ++s) {
      const char* at = data + s * each + i;
      for (int j = 0; j < 8; ++j) {
        if (kHint >= 0 && j % 2 == 0) _mm_prefetch(at + ahead + 32 * j, static_cast<_mm_hint>(kHint < 0 ? 0 : kHint));
        sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32 * j)));
      }
    }
  }
  for (int j = 1; j < 8; ++j) sum[0] = _mm256_xor_si256(sum[0], sum[j]);
  return _mm256_extract_epi64(sum[0], 0) ^ _mm256_extract_epi64(sum[0], 2);
}

// Chains of multiply-adds that do not wait for each other: a latency of four cycles times two units needs eight, the
// sequence of three instructions a few more. Written as assembly: the figure is the instruction's, not the compiler's.
constexpr int kChains = 12;

__attribute__((target("avx512f"))) inline double spin_f32_512(int64_t n) {
  __m512 acc[kChains] = {}, a = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) asm volatile("vfmadd231ps %1, %1, %0" : "+v"(acc[j]) : "v"(a));
  }
  return static_cast<double>(n) * kChains * 16;
}

__attribute__((target("avx512f,avx512bf16"))) inline double spin_bf16_512(int64_t n) {
  __m512i acc[kChains] = {}, a = _mm512_set1_epi32(0x3f803f80);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) asm volatile("vdpbf16ps %1, %1, %0" : "+v"(acc[j]) : "v"(a));
  }
  return static_cast<double>(n) * kChains * 32;
}

__attribute__((target("avx2,avxvnni"))) inline double spin_int8_vnni_256(int64_t n) {
  __m256i acc[kChains] = {}, a = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) asm volatile("%{vex%} vpdpbusd %1, %1, %0" : "+x"(acc[j]) : "x"(a));
  }
  return static_cast<double>(n) * kChains * 32;
}

__attribute__((target("avx512f,avx512vnni"))) inline double spin_int8_512(int64_t n) {
  __m512i acc[kChains] = {}, a = _mm512_set1_epi8(3);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) asm volatile("vpdpbusd %1, %1, %0" : "+v"(acc[j]) : "v"(a));
  }
  return static_cast<double>(n) * kChains * 64;
}

// Products of whole tiles, 16 rows x 64 bytes x 16 columns: four of them do not wait for each other. The process must
// have been granted tiles (cpu/dispatch.cc). Zeros: a tile takes as long whatever it holds.
struct alignas(64) SpinTiles {
  uint8_t palette, rest[15];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

__attribute__((target("amx-tile,amx-bf16,amx-int8"))) inline void spin_tiles_begin() {
  SpinTiles tiles = {};
  tiles.palette = 1;
  for (int i = 0; i < 8; ++i) tiles.row_bytes[i] = 64, tiles.rows[i] = 16;
  asm volatile("ldtilecfg %0" : : "m"(tiles));  // and all tiles are zero
}

__attribute__((target("amx-tile,amx-bf16"))) inline double spin_bf16_tiles(int64_t n) {
  spin_tiles_begin();
  for (int64_t i = 0; i < n; ++i) {
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n\t"
        "tdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n\t"
        "tdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
  return static_cast<double>(n) * 4 * 16 * 16 * 32;
}

__attribute__((target("amx-tile,amx-int8"))) inline double spin_int8_tiles(int64_t n) {
  spin_tiles_begin();
  for (int64_t i = 0; i < n; ++i) {
    asm volatile(
        "tdpbssd %tmm6, %tmm4, %tmm0\n\t"
        "tdpbssd %tmm7, %tmm4, %tmm1\n\t"
        "tdpbssd %tmm6, %tmm5, %tmm2\n\t"
        "tdpbssd %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
  return static_cast<double>(n) * 4 * 16 * 16 * 64;
}

__attribute__((target("avx2,fma"))) inline double spin_f32_256(int64_t n) {
  __m256 acc[kChains] = {}, a = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) asm volatile("vfmadd231ps %1, %1, %0" : "+x"(acc[j]) : "x"(a));
  }
  return static_cast<double>(n) * kChains * 8;
}

// Without a dot product of bytes, exact sums take two products of words and two additions for 32 products of int8, and
// one product of bytes and one addition of words for those of int4 (native/cpu/linear_words.inl). Additions take turns
// with products on Zen 3: 0.62 cycles a pair where half a cycle would do.
__attribute__((target("avx2"))) inline double spin_int8_256(int64_t n) {
  __m256i acc[kChains] = {}, a = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      __m256i product;
      asm volatile("vpmaddwd %2, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc[j]), "=&x"(product) : "x"(a));
    }
  }
  return static_cast<double>(n) * kChains * 16;
}

__attribute__((target("avx2"))) inline double spin_int4_256(int64_t n) {
  __m256i acc[kChains] = {}, a = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      __m256i product;
      asm volatile("vpmaddubsw %2, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc[j]), "=&x"(product) : "x"(a));
    }
  }
  return static_cast<double>(n) * kChains * 32;
}

#endif

inline int64_t read_plain(const char* data, int64_t each, int n_streams, int64_t) {
  uint64_t sum[8] = {};
  for (int64_t i = 0; i < each; i += kTurn) {
    for (int s = 0; s < n_streams; ++s) {
      for (int64_t at = s * each + i; at < s * each + i + kTurn; at += 64) {
        uint64_t line[8];
        __builtin_memcpy(line, data + at, sizeof line);
        for (int j = 0; j < 8; ++j) sum[j] ^= line[j];
      }
    }
  }
  return static_cast<int64_t>(sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
}

// Four lanes, multiply and add apart: what any machine of the architecture has.
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

}  // namespace qwen3::bench
