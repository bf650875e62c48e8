#include "node/output_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace qwen3::node {
namespace {

// `more` follows `into` in the same request.
void merge(RequestOutput& into, RequestOutput&& more) {
  into.tokens.insert(into.tokens.end(), more.tokens.begin(), more.tokens.end());
  std::move(more.logprobs.begin(), more.logprobs.end(), std::back_inserter(into.logprobs));
  if (!more.finished) return;
  std::swap(into.tokens, more.tokens);
  std::swap(into.logprobs, more.logprobs);
  into = std::move(more);
}

}  // namespace

void OutputQueue::push(std::vector<RequestOutput>&& outputs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || outputs.empty()) return;
  for (RequestOutput& output : outputs) {
    const auto [entry, added] = index_.try_emplace(output.request_id, batch_.outputs.size());
    if (added) {
      batch_.outputs.push_back(std::move(output));
    } else {
      merge(batch_.outputs[entry->second], std::move(output));
    }
  }
  wake_locked();
}

void OutputQueue::push_progress(std::shared_ptr<Job> job) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  if (std::find(batch_.progress.begin(), batch_.progress.end(), job) == batch_.progress.end()) {
    batch_.progress.push_back(std::move(job));
  }
  wake_locked();
}

void OutputQueue::push_finished(std::shared_ptr<Job> job) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  batch_.finished.push_back(std::move(job));
  wake_locked();
}

OutputQueue::Batch OutputQueue::drain() {
  const std::lock_guard<std::mutex> lock(mutex_);
  scheduled_ = false;
  index_.clear();
  return std::exchange(batch_, {});
}

void OutputQueue::close() {
  // Destroyed outside the lock: a job may own an engine.
  Batch dropped;
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  std::swap(dropped, batch_);
  index_.clear();
}

void OutputQueue::wake_locked() {
  if (scheduled_) return;
  // The lock is held so that close() cannot return while the wake-up is being sent.
  scheduled_ = wake_();
  if (!scheduled_) closed_ = true;
}

}  // namespace qwen3::node
