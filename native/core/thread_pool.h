#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace qwen3 {

// A counter that threads wait on: they spin, then yield, then sleep, so that a waiter that waits long costs nothing.
class WaitableCounter {
 public:
  uint32_t load() const { return value_.load(std::memory_order_acquire); }
  // Adds one and wakes every sleeper.
  void bump();
  // Returns once the value differs from `old`. `spins`: iterations before the first yield.
  void wait_while_equal(uint32_t old, int spins);

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<int32_t> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

// A fixed set of threads that run one job at a time together. The calling thread works too, as thread 0, so a pool of
// one has no thread of its own. Jobs from several callers run one after the other in the order of arrival. Work is cut
// into tasks by the caller, never by the number of threads, and a task's result may not depend on who runs it: results
// are therefore the same for any pool size. Idle threads sleep.
class ThreadPool {
 public:
  // n_threads: 0 = default_threads(). Throws Error(kInvalidArgument) outside [0, 1024], Error(kOutOfMemory) when the
  // system refuses a thread.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  // Physical cores among the CPUs this process may run on, at most the cgroup's CPU quota, at least 1.
  static int default_threads();

  // One thread's view of a running job. All threads of a job make the same sequence of calls.
  class Team {
   public:
    Team(ThreadPool& pool, int thread) : pool_(pool), thread_(thread) {}
    int thread() const { return thread_; }
    int size() const { return pool_.n_threads_; }
    // Returns when every thread has arrived; what was written before is visible to all.
    void barrier() { pool_.barrier(); }
    // Runs task(i) for i in [0, n_tasks), each once on some thread, then a barrier. Tasks are claimed one by one, so a
    // thread that the system has put aside delays only what it holds.
    template <class Task>
    void for_each(int64_t n_tasks, Task&& task) {
      for (;;) {
        const int64_t i = pool_.next_task_.fetch_add(1, std::memory_order_relaxed);
        if (i >= n_tasks) break;
        task(i);
      }
      barrier();
    }

   private:
    ThreadPool& pool_;
    int thread_;
  };

  // Runs body(team) on every thread; returns when all have finished. `body` must not throw.
  template <class Body>
  void run(Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    dispatch([](void* context, Team& team) { (*static_cast<Plain*>(context))(team); },
             const_cast<void*>(static_cast<const void*>(&body)));
  }

  // task(i) for i in [0, n_tasks). The first exception is rethrown here; tasks not yet begun are then skipped.
  template <class Task>
  void parallel_for(int64_t n_tasks, Task&& task) {
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    run([&](Team& team) {
      team.for_each(n_tasks, [&](int64_t i) {
        if (failed.load(std::memory_order_relaxed)) return;
        try {
          task(i);
        } catch (...) {
          if (!failed.exchange(true)) error = std::current_exception();
        }
      });
    });
    if (error) std::rethrow_exception(error);
  }

 private:
  using Job = void (*)(void* context, Team& team);
  void dispatch(Job job, void* context);
  void barrier();
  void work(int thread);
  void stop();

  int n_threads_ = 1;
  int spins_ = 0;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopping_{false};

  // The running job; written before `epoch_` is bumped, read after.
  Job job_ = nullptr;
  void* context_ = nullptr;
  WaitableCounter epoch_;

  // The barrier: the last to arrive resets what the next phase starts from and bumps the generation.
  alignas(64) std::atomic<int32_t> arrived_{0};
  alignas(64) std::atomic<int64_t> next_task_{0};
  alignas(64) WaitableCounter generation_;

  // Callers queue by ticket, so that no engine starves another.
  std::mutex queue_mutex_;
  std::condition_variable queue_changed_;
  uint64_t next_ticket_ = 0, serving_ = 0;
};

}  // namespace qwen3
