#include "machine_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <new>
#include <thread>

#include <sched.h>
#include <sys/mman.h>

#include "cpu/dispatch.h"
#include "limits_kernels.h"

namespace qwen3::bench {
namespace {

constexpr int64_t kArrayBytes = int64_t{512} << 20;
constexpr int64_t kPiece = int64_t{64} << 10;  // of the interleaved patterns
constexpr int kFinalists = 6;                  // patterns that get all the rounds
constexpr double kSpinSeconds = 0.02;          // of one arithmetic measurement
constexpr int kSpinRounds = 4;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

// Runs work(thread) on n threads that start together; returns seconds from the first start to the last end.
double timed(int n, const std::function<void(int)>& work) {
  std::vector<double> begin(static_cast<size_t>(n)), end(static_cast<size_t>(n));
  std::atomic<int> waiting{n};
  const auto body = [&](int thread) {
    waiting.fetch_sub(1);
    while (waiting.load() > 0) {
    }
    begin[static_cast<size_t>(thread)] = seconds_now();
    work(thread);
    end[static_cast<size_t>(thread)] = seconds_now();
  };
  std::vector<std::thread> threads;
  for (int thread = 1; thread < n; ++thread) threads.emplace_back(body, thread);
  body(0);
  for (std::thread& thread : threads) thread.join();
  return *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
}

// An array that is read, every page of it written once.
class Array {
 public:
  explicit Array(bool huge_pages) {
    data_ = mmap(nullptr, kArrayBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(data_, kArrayBytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    std::memset(data_, 1, kArrayBytes);
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() {
    munmap(data_, kArrayBytes);
  }
  const char* data() const {
    return static_cast<const char*>(data_);
  }

 private:
  void* data_;
};

ReadLoop read_loop(const ReadPattern& pattern) {
  const bool none = pattern.prefetch_bytes == 0;
  (void)none;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f"))
    return none ? read_512<-1> : pattern.non_temporal ? read_512<_MM_HINT_NTA> : read_512<_MM_HINT_T0>;
  if (__builtin_cpu_supports("avx2"))
    return none ? read_256<-1> : pattern.non_temporal ? read_256<_MM_HINT_NTA> : read_256<_MM_HINT_T0>;
#endif
  return read_plain;
}

// One pass over the array; bytes a second.
double read_once(const char* data, const ReadPattern& pattern, int threads) {
  const ReadLoop loop = read_loop(pattern);
  const int64_t share = kArrayBytes / threads / kPiece * kPiece;
  const double seconds = timed(threads, [&](int thread) {
    int64_t sum = 0;
    if (!pattern.interleaved) {
      const int64_t each = share / pattern.streams / kTurn * kTurn;
      sum = loop(data + thread * share, each, pattern.streams, pattern.prefetch_bytes);
    } else {
      const int64_t each = kPiece / pattern.streams / kTurn * kTurn;
      for (int64_t at = thread * kPiece; at + kPiece <= share * threads; at += threads * kPiece)
        sum ^= loop(data + at, each, pattern.streams, pattern.prefetch_bytes);
    }
    sink = sum;
  });
  const int64_t unit = pattern.interleaved ? kPiece : share;
  const int64_t read = unit / pattern.streams / kTurn * kTurn * pattern.streams;
  return static_cast<double>(read) * static_cast<double>(share / unit * threads) / seconds;
}

std::vector<ReadPattern> patterns(bool huge_pages) {
  std::vector<ReadPattern> all;
  for (const bool interleaved : {false, true}) {
    for (const int streams : {1, 2, 4, 8, 16}) {
      if (interleaved && streams > 4) continue;
      for (const int ahead : {0, 512, 1024, 2048, 4096})
        for (const bool non_temporal : {false, true})
          if (ahead > 0 || !non_temporal) all.push_back({streams, ahead, non_temporal, huge_pages, interleaved});
    }
  }
  return all;
}

class ReadBench {
 public:
  ReadLimit run(int threads, int rounds) {
    std::vector<ReadLimit> found;
    for (const bool huge : {true, false})
      for (const ReadPattern& pattern : patterns(huge))
        found.push_back({threads, read_once(array(huge), pattern, threads), pattern});
    const auto faster = [](const ReadLimit& a, const ReadLimit& b) { return a.gbs > b.gbs; };
    std::sort(found.begin(), found.end(), faster);
    found.resize(std::min<size_t>(found.size(), kFinalists));
    for (int round = 0; round < rounds; ++round)
      for (ReadLimit& one : found)
        one.gbs = std::max(one.gbs, read_once(array(one.pattern.huge_pages), one.pattern, threads));
    ReadLimit best = *std::min_element(found.begin(), found.end(), faster);
    best.gbs /= 1e9;
    return best;
  }

 private:
  const char* array(bool huge) const { return huge ? huge_.data() : small_.data(); }
  Array huge_{true}, small_{false};
};

// Operations a second on all threads; the best of a few rounds.
double spin_rate(SpinLoop spin, int threads) {
  if (!spin) return 0;
  int64_t n = 1 << 12;
  double begin = seconds_now();
  spin(n);
  n = std::max<int64_t>(n, static_cast<int64_t>(static_cast<double>(n) * kSpinSeconds / (seconds_now() - begin)));
  double best = 0;
  for (int round = 0; round < kSpinRounds; ++round) {
    std::vector<double> done(static_cast<size_t>(threads));
    const double seconds = timed(threads, [&](int thread) { done[static_cast<size_t>(thread)] = spin(n); });
    double total = 0;
    for (const double d : done) total += d;
    best = std::max(best, 2 * total / seconds);
  }
  return best;
}

ArithmeticLimit level(const char* isa, SpinLoop f32, SpinLoop bf16, SpinLoop int8, int threads,
                      SpinLoop int4 = nullptr) {
  return {isa, spin_rate(f32, threads), spin_rate(bf16, threads), spin_rate(int8, threads), spin_rate(int4, threads)};
}

std::vector<ArithmeticLimit> measure_arithmetic(int threads) {
  std::vector<ArithmeticLimit> levels{level("scalar", spin_f32_plain, nullptr, nullptr, threads)};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    levels.push_back(level("avx2", spin_f32_256, nullptr, spin_int8_256, threads, spin_int4_256));
  if (cpu::isa_available("avxvnni")) levels.push_back(level("avxvnni", nullptr, nullptr, spin_int8_vnni_256, threads));
  if (!__builtin_cpu_supports("avx512f")) return levels;
  levels.push_back(level("avx512", spin_f32_512, nullptr, nullptr, threads));
  if (__builtin_cpu_supports("avx512vnni"))
    levels.push_back(level("avx512vnni", nullptr, nullptr, spin_int8_512, threads));
  if (__builtin_cpu_supports("avx512bf16"))
    levels.push_back(level("avx512bf16", nullptr, spin_bf16_512, nullptr, threads));
  if (cpu::isa_available("amx")) levels.push_back(level("amx", nullptr, spin_bf16_tiles, spin_int8_tiles, threads));
#endif
  return levels;
}

double best_of(const std::vector<ArithmeticLimit>& levels, double ArithmeticLimit::*rate) {
  double best = 0;
  for (const ArithmeticLimit& one : levels) best = std::max(best, one.*rate);
  return best;
}

void append(std::string& to, const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  to += text;
}

}  // namespace

double Limits::f32_flops() const {
  return best_of(arithmetic, &ArithmeticLimit::f32_flops);
}
double Limits::bf16_flops() const {
  return std::max(f32_flops(), best_of(arithmetic, &ArithmeticLimit::bf16_flops));
}
double Limits::int8_ops() const {
  return best_of(arithmetic, &ArithmeticLimit::int8_ops);
}
double Limits::int4_ops() const {
  return std::max(int8_ops(), best_of(arithmetic, &ArithmeticLimit::int4_ops));
}

Limits measure_limits(const LimitsOptions& options) {
  Limits limits;
  limits.threads = options.threads > 0 ? options.threads : usable_cpus();
  limits.mebibytes = static_cast<double>(kArrayBytes >> 20);
  ReadBench read;
  for (int threads = options.one_count ? limits.threads : 1; threads <= limits.threads; ++threads)
    limits.read.push_back(read.run(threads, options.read_rounds));
  if (options.arithmetic) limits.arithmetic = measure_arithmetic(limits.threads);
  return limits;
}

double read_bandwidth_again(const ReadLimit& limit, int rounds) {
  const Array array(limit.pattern.huge_pages);
  double best = 0;
  for (int round = 0; round < rounds; ++round)
    best = std::max(best, read_once(array.data(), limit.pattern, limit.threads));
  return best / 1e9;
}

std::string to_json(const Limits& limits) {
  std::string out;
  append(out, "{\"threads\": %d, \"arrayMebibytes\": %.0f, \"read\": [", limits.threads, limits.mebibytes);
  const char* comma = "";
  for (const ReadLimit& one : limits.read) {
    const ReadPattern& p = one.pattern;
    append(out, "%s{\"threads\": %d, \"gigabytesPerSecond\": %.2f, \"pattern\": ", comma, one.threads, one.gbs);
    append(out, "{\"streams\": %d, \"prefetchBytes\": %d, \"nonTemporal\": %s, ", p.streams, p.prefetch_bytes,
           p.non_temporal ? "true" : "false");
    append(out, "\"hugePages\": %s, \"interleaved\": %s}}", p.huge_pages ? "true" : "false",
           p.interleaved ? "true" : "false");
    comma = ", ";
  }
  out += "], \"arithmetic\": [";
  comma = "";
  for (const ArithmeticLimit& one : limits.arithmetic) {
    append(out, "%s{\"isa\": \"%s\", \"f32Gflops\": %.1f, ", comma, one.isa.c_str(), one.f32_flops / 1e9);
    append(out, "\"bf16Gflops\": %.1f, \"int8Gops\": %.1f, ", one.bf16_flops / 1e9, one.int8_ops / 1e9);
    append(out, "\"int4Gops\": %.1f}", one.int4_ops / 1e9);
    comma = ", ";
  }
  append(out, "], \"readGigabytesPerSecond\": %.2f, \"f32Gflops\": %.1f, ", limits.read_gbs(),
         limits.f32_flops() / 1e9);
  append(out, "\"bf16Gflops\": %.1f, \"int8Gops\": %.1f, ", limits.bf16_flops() / 1e9, limits.int8_ops() / 1e9);
  append(out, "\"int4Gops\": %.1f}", limits.int4_ops() / 1e9);
  return out;
}

}  // namespace qwen3::bench
