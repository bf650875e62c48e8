#pragma once

// What this machine can do at most, measured: bytes read from memory per second, multiply-adds per second. Every other
// figure of the benchmarks is given beside a fraction of these, so a fraction above one says that the measurement here
// missed the machine's best: then it is void, and a pattern has to be added.

#include <cstdint>
#include <string>
#include <vector>

namespace qwen3::bench {

// One way of reading a large array. Hardware prefetchers follow a few streams each and stop at the end of a page, so
// which way is fastest differs from machine to machine.
struct ReadPattern {
  int streams = 1;            // places of the array that one thread reads by turns, 256 bytes each
  int prefetch_bytes = 0;     // how far ahead of each load a line is asked for; 0 = never
  bool non_temporal = false;  // prefetcht0 or prefetchnta
  bool huge_pages = true;     // madvise(MADV_HUGEPAGE) or 4 KiB pages
  bool interleaved = false;   // threads take pieces of 64 KiB by turns, or one contiguous part each
};

struct ReadLimit {
  int threads = 0;
  double gbs = 0;  // 1e9 bytes a second, over all threads
  ReadPattern pattern;
};

// Two operations a multiply-add, over all threads; 0 where the level has no such instruction.
struct ArithmeticLimit {
  std::string isa;  // "scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"
  double f32_flops = 0, bf16_flops = 0, int8_ops = 0;
  double int4_ops = 0;  // 0: as int8
};

struct Limits {
  int threads = 0;
  double mebibytes = 0;                     // of the array that is read: far above the caches
  std::vector<ReadLimit> read;              // [threads], 1 to `threads` threads
  std::vector<ArithmeticLimit> arithmetic;  // the levels that this machine has
  // The best of all levels. bf16 at least at the rate of f32, to which it widens in a shift; int4 at that of int8.
  double read_gbs() const { return read.empty() ? 0 : read.back().gbs; }
  double f32_flops() const;
  double bf16_flops() const;
  double int8_ops() const;
  double int4_ops() const;
};

struct LimitsOptions {
  int threads = 0;         // 0 = CPUs that this process may run on
  int read_rounds = 12;    // of the best patterns, after one of every pattern
  bool one_count = false;  // read bandwidth with `threads` threads only
  bool arithmetic = true;
};

// About three seconds with the defaults on two cores. Throws std::bad_alloc without 512 MiB.
Limits measure_limits(const LimitsOptions& options);

// Bandwidth alone, with the pattern of an earlier measurement: a few tens of milliseconds.
double read_bandwidth_again(const ReadLimit& limit, int rounds);

std::string to_json(const Limits& limits);

}  // namespace qwen3::bench
