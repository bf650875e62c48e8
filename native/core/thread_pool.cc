#include "core/thread_pool.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <system_error>

#include "core/status.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#include <csignal>

namespace qwen3 {
namespace {

constexpr int kMaxThreads = 1024;
// A barrier inside a step is usually reached by all within a few microseconds; a pause is 10 to 40 ns.
constexpr int kSpins = 512;
// After that the core is offered to others for a while (an engine samples between two steps), then the thread sleeps.
constexpr int kYields = 256;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__linux__)
std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// CPUs granted by "<quota> <period>" (cgroup v2 cpu.max); 0 = no limit.
double quota_cpus(const std::string& text) {
  std::istringstream in(text);
  double quota = 0, period = 0;
  if (!(in >> quota >> period) || quota <= 0 || period <= 0) return 0;  // "max 100000" does not parse as a number
  return quota / period;
}

// The tightest CPU quota of this process's cgroup and its parents, versions 2 and 1; 0 = none.
double cgroup_cpus() {
  double limit = 0;
  const auto tighten = [&limit](double cpus) {
    if (cpus > 0 && (limit == 0 || cpus < limit)) limit = cpus;
  };
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    const bool version2 = controllers.empty();
    if (!version2 && controllers.find("cpu") == std::string::npos) continue;
    for (;;) {
      const std::string at = path == "/" ? "" : path;
      if (version2) {
        tighten(quota_cpus(read_line("/sys/fs/cgroup" + at + "/cpu.max")));
      } else {
        const std::string base = "/sys/fs/cgroup/cpu" + at;
        tighten(quota_cpus(read_line(base + "/cpu.cfs_quota_us") + " " + read_line(base + "/cpu.cfs_period_us")));
      }
      if (at.empty()) break;
      const size_t slash = path.rfind('/');
      path = slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
    }
  }
  return limit;
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return cpus;
}
#endif

int usable_cpus() {
#if defined(__linux__)
  const size_t n = allowed_cpus().size();
  if (n > 0) return static_cast<int>(n);
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

int ThreadPool::default_threads() {
  int cores = usable_cpus();
#if defined(__linux__)
  std::set<std::string> siblings;  // CPUs of one core share this line
  for (int cpu : allowed_cpus()) {
    const std::string line =
        read_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    siblings.insert(line.empty() ? "cpu" + std::to_string(cpu) : line);
  }
  if (!siblings.empty()) cores = static_cast<int>(siblings.size());
  const double quota = cgroup_cpus();
  if (quota > 0) cores = std::min(cores, static_cast<int>(std::ceil(quota)));
#endif
  return std::clamp(cores, 1, kMaxThreads);
}

void WaitableCounter::bump() {
  value_.fetch_add(1, std::memory_order_seq_cst);
  // Sleepers announce themselves before they look at the value (both sequentially consistent), so either they see the
  // new value or this sees them.
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    changed_.notify_all();
  }
}

void WaitableCounter::wait_while_equal(uint32_t old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (load() != old) return;
    relax();
  }
  for (int i = 0; i < kYields; ++i) {
    if (load() != old) return;
    std::this_thread::yield();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  changed_.wait(lock, [&] { return value_.load(std::memory_order_seq_cst) != old; });
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads < 0 || n_threads > kMaxThreads) {
    throw Error(ErrorCode::kInvalidArgument,
                "threads must be between 0 (automatic) and 1024, received " + std::to_string(n_threads), "threads");
  }
  n_threads_ = n_threads == 0 ? default_threads() : n_threads;
  // With more threads than CPUs a spinning thread holds up the one it waits for.
  spins_ = n_threads_ <= usable_cpus() ? kSpins : 0;
#if defined(__linux__)
  // Signals belong to the host's threads: these inherit a mask that blocks all.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
  std::string failure;
  try {
    threads_.reserve(static_cast<size_t>(n_threads_ - 1));
    for (int thread = 1; thread < n_threads_; ++thread) threads_.emplace_back([this, thread] { work(thread); });
  } catch (const std::exception& error) {
    failure = error.what();
  }
#if defined(__linux__)
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
  if (!failure.empty()) {
    stop();
    throw Error(ErrorCode::kOutOfMemory,
                "could not start " + std::to_string(n_threads_) + " threads (" + failure + "); set `threads` lower",
                "threads");
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stopping_.store(true, std::memory_order_release);
  epoch_.bump();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::work(int thread) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "qwen3-cpu");
#endif
  uint32_t seen = 0;
  for (;;) {
    epoch_.wait_while_equal(seen, spins_);
    ++seen;  // never skips one: a job ends only when every thread has arrived at its last barrier
    if (stopping_.load(std::memory_order_acquire)) return;
    Team team(*this, thread);
    job_(context_, team);
    barrier();
  }
}

void ThreadPool::barrier() {
  if (n_threads_ == 1) {
    next_task_.store(0, std::memory_order_relaxed);
    return;
  }
  const uint32_t generation = generation_.load();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    next_task_.store(0, std::memory_order_relaxed);
    generation_.bump();
  } else {
    generation_.wait_while_equal(generation, spins_);
  }
}

void ThreadPool::dispatch(Job job, void* context) {
  {
    std::unique_lock<std::mutex> lock(queue_mutex_);
    const uint64_t ticket = next_ticket_++;
    queue_changed_.wait(lock, [&] { return serving_ == ticket; });
  }
  job_ = job;
  context_ = context;
  epoch_.bump();
  Team team(*this, 0);
  job(context, team);
  barrier();
  {
    std::lock_guard<std::mutex> lock(queue_mutex_);
    ++serving_;
  }
  queue_changed_.notify_all();
}

}  // namespace qwen3
