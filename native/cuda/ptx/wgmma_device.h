#pragma once

// wgmma.mma_async for the widths that the kernels use. An accumulator of N columns is N / 2 operands, %0 on; behind it
// come those whose numbers a width names.

#if QWEN3_HOPPER

// "%0, %1, ..., %7" and so on, of 8, 16, 24, ... registers.
#define QWEN3_NAMES_4 "%0, %1, %2, %3"
#define QWEN3_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define QWEN3_NAMES_16 QWEN3_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define QWEN3_NAMES_24 QWEN3_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define QWEN3_NAMES_32 QWEN3_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define QWEN3_NAMES_40 QWEN3_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define QWEN3_NAMES_48 QWEN3_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define QWEN3_NAMES_56 QWEN3_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define QWEN3_NAMES_64 QWEN3_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define QWEN3_NAMES_72 QWEN3_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define QWEN3_NAMES_80 QWEN3_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define QWEN3_NAMES_88 QWEN3_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define QWEN3_NAMES_96 QWEN3_NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define QWEN3_NAMES_112 \
  QWEN3_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define QWEN3_NAMES_128 \
  QWEN3_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// The operands themselves.
#define QWEN3_HOLD_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define QWEN3_HELD_4 QWEN3_HOLD_4(0)
#define QWEN3_HELD_8 QWEN3_HELD_4, QWEN3_HOLD_4(4)
#define QWEN3_HELD_16 QWEN3_HELD_8, QWEN3_HOLD_4(8), QWEN3_HOLD_4(12)
#define QWEN3_HELD_24 QWEN3_HELD_16, QWEN3_HOLD_4(16), QWEN3_HOLD_4(20)
#define QWEN3_HELD_32 QWEN3_HELD_24, QWEN3_HOLD_4(24), QWEN3_HOLD_4(28)
#define QWEN3_HELD_40 QWEN3_HELD_32, QWEN3_HOLD_4(32), QWEN3_HOLD_4(36)
#define QWEN3_HELD_48 QWEN3_HELD_40, QWEN3_HOLD_4(40), QWEN3_HOLD_4(44)
#define QWEN3_HELD_56 QWEN3_HELD_48, QWEN3_HOLD_4(48), QWEN3_HOLD_4(52)
#define QWEN3_HELD_64 QWEN3_HELD_56, QWEN3_HOLD_4(56), QWEN3_HOLD_4(60)
#define QWEN3_HELD_72 QWEN3_HELD_64, QWEN3_HOLD_4(64), QWEN3_HOLD_4(68)
#define QWEN3_HELD_80 QWEN3_HELD_72, QWEN3_HOLD_4(72), QWEN3_HOLD_4(76)
#define QWEN3_HELD_88 QWEN3_HELD_80, QWEN3_HOLD_4(80), QWEN3_HOLD_4(84)
#define QWEN3_HELD_96 QWEN3_HELD_88, QWEN3_HOLD_4(88), QWEN3_HOLD_4(92)
#define QWEN3_HELD_112 QWEN3_HELD_96, QWEN3_HOLD_4(96), QWEN3_HOLD_4(100), QWEN3_HOLD_4(104), QWEN3_HOLD_4(108)
#define QWEN3_HELD_128 QWEN3_HELD_112, QWEN3_HOLD_4(112), QWEN3_HOLD_4(116), QWEN3_HOLD_4(120), QWEN3_HOLD_4(124)

#define QWEN3_WGMMA(n, registers, sources, accumulate, more, ...)                                       \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, " accumulate ", 0; wgmma.mma_async.sync.aligned.m64n" #n \
               "k16.f32.bf16.bf16 {" QWEN3_NAMES_##registers "}, " sources ", p, 1, 1, " more "; }"     \
               : QWEN3_HELD_##registers                                                                 \
               : __VA_ARGS__)

#else
#define QWEN3_WGMMA(...) __trap()
#endif

// n columns in so many registers; the numbers of the operands behind them.
#define QWEN3_FROM_SHARED(n, registers, a_at, b_at, accumulate_at, transpose_a_at, transpose_b_at)                  \
  template <int kTransposeA, int kTransposeB>                                                                       \
  QWEN3_DEVICE void from_shared(float(&d)[registers], uint64_t a, uint64_t b, int accumulate) {                     \
    QWEN3_WGMMA(n, registers, "%" #a_at ", %" #b_at, "%" #accumulate_at, "%" #transpose_a_at ", %" #transpose_b_at, \
                "l"(a), "l"(b), "r"(accumulate), "n"(kTransposeA), "n"(kTransposeB));                               \
  }
#define QWEN3_FROM_REGISTERS(n, registers, a0, a1, a2, a3, b_at, accumulate_at, transpose_b_at)               \
  template <int kTransposeB>                                                                                  \
  QWEN3_DEVICE void from_registers(float(&d)[registers], const uint32_t(&a)[4], uint64_t b, int accumulate) { \
    QWEN3_WGMMA(n, registers, "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b_at, "%" #accumulate_at,        \
                "%" #transpose_b_at, "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate),     \
                "n"(kTransposeB));                                                                            \
  }

namespace qwen3::cuda {
namespace wgmma_detail {

QWEN3_FROM_SHARED(8, 4, 4, 5, 6, 7, 8)
QWEN3_FROM_SHARED(16, 8, 8, 9, 10, 11, 12)
QWEN3_FROM_SHARED(32, 16, 16, 17, 18, 19, 20)
QWEN3_FROM_SHARED(48, 24, 24, 25, 26, 27, 28)
QWEN3_FROM_SHARED(64, 32, 32, 33, 34, 35, 36)
QWEN3_FROM_SHARED(80, 40, 40, 41, 42, 43, 44)
QWEN3_FROM_SHARED(96, 48, 48, 49, 50, 51, 52)
QWEN3_FROM_SHARED(112, 56, 56, 57, 58, 59, 60)
QWEN3_FROM_SHARED(128, 64, 64, 65, 66, 67, 68)
QWEN3_FROM_SHARED(144, 72, 72, 73, 74, 75, 76)
QWEN3_FROM_SHARED(160, 80, 80, 81, 82, 83, 84)
QWEN3_FROM_SHARED(176, 88, 88, 89, 90, 91, 92)
QWEN3_FROM_SHARED(192, 96, 96, 97, 98, 99, 100)
QWEN3_FROM_SHARED(256, 128, 128, 129, 130, 131, 132)

QWEN3_FROM_REGISTERS(32, 16, 16, 17, 18, 19, 20, 21, 22)
QWEN3_FROM_REGISTERS(64, 32, 32, 33, 34, 35, 36, 37, 38)
QWEN3_FROM_REGISTERS(128, 64, 64, 65, 66, 67, 68, 69, 70)
QWEN3_FROM_REGISTERS(192, 96, 96, 97, 98, 99, 100, 101, 102)
QWEN3_FROM_REGISTERS(256, 128, 128, 129, 130, 131, 132, 133, 134)

}  // namespace wgmma_detail

// D [64, N] (+)= A [64, 16] B [16, N]; both from shared memory.
template <int N, bool kAMnMajor = false, bool kBMnMajor = false>
QWEN3_DEVICE void wgmma(WgmmaRegisters<float, N / 2>& d, uint64_t a, uint64_t b, bool accumulate) {
  wgmma_detail::from_shared<kAMnMajor, kBMnMajor>(d.v, a, b, accumulate);
}
// A from registers, in the layout of mma m16n8k16 per warp.
template <int N, bool kBMnMajor = false>
QWEN3_DEVICE void wgmma(WgmmaRegisters<float, N / 2>& d, WgmmaRegisters<uint32_t, 4>& a, uint64_t b, bool accumulate) {
  wgmma_detail::from_registers<kBMnMajor>(d.v, a.v, b, accumulate);
}

}  // namespace qwen3::cuda
