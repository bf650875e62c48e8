#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "engine/request.h"

namespace qwen3::node {

// A piece of work that ran on a thread of its own and wants to be finished on the JavaScript thread.
class Job;

// Everything that waits for the JavaScript thread of one environment: what the engines produced since the last
// callback, merged per request; loads that moved on; jobs that ended. At most one wake-up is under way at any time, so
// a blocked event loop collects one merged batch, and no engine ever waits for JavaScript.
class OutputQueue {
 public:
  struct Batch {
    std::vector<RequestOutput> outputs;          // one per request, in the order of their first token
    std::vector<std::shared_ptr<Job>> progress;  // each once
    std::vector<std::shared_ptr<Job>> finished;
  };

  // `wake` schedules one call of drain() on the JavaScript thread without blocking; false: the environment is closing.
  explicit OutputQueue(std::function<bool()> wake) : wake_(std::move(wake)) {}

  // Any thread. Dropped after close().
  void push(std::vector<RequestOutput>&& outputs);
  void push_progress(std::shared_ptr<Job> job);
  void push_finished(std::shared_ptr<Job> job);

  // JavaScript thread: takes all that waits and permits the next wake-up.
  Batch drain();

  // JavaScript thread, when the environment goes away: `wake` is not called again once this returns.
  void close();

 private:
  void wake_locked();

  std::mutex mutex_;
  std::function<bool()> wake_;
  Batch batch_;
  std::unordered_map<int64_t, size_t> index_;  // request id -> position in batch_.outputs
  bool scheduled_ = false;
  bool closed_ = false;
};

}  // namespace qwen3::node
