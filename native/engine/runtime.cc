#include "engine/runtime.h"

#include <chrono>
#include <utility>

#include "core/status.h"

namespace qwen3 {
namespace {

// How long a waiting load sleeps before it looks at its cancel flag and reports progress.
constexpr std::chrono::milliseconds kWait{20};

bool cancelled(const LoadProgress& progress) {
  return progress.cancelled && progress.cancelled->load(std::memory_order_relaxed);
}

}  // namespace

Runtime& Runtime::get() {
  static Runtime* const runtime = new Runtime;
  return *runtime;
}

std::shared_ptr<Backend> Runtime::backend(const std::string& device, int threads, const std::string& isa,
                                          BatchInvariance invariance) {
  if (threads < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "threads must be 0 (physical cores) or more, received " + std::to_string(threads), "threads");
  }
  const std::lock_guard lock(mutex_);
  const auto known = backends_.find({device, threads, isa, invariance});
  if (known != backends_.end()) return known->second;
  std::shared_ptr<Backend> made = create_backend(device, threads, isa, invariance);
  for (const auto& [key, backend] : backends_) {  // another name for the same device
    const auto& [other_device, other_threads, other_isa, other_grade] = key;
    if (other_threads == threads && other_isa == isa && backend->name() == made->name()) made = backend;
  }
  backends_[{device, threads, isa, invariance}] = made;
  return made;
}

Runtime::Key Runtime::key_of(const std::string& key, const Backend& backend, const WeightFormats& formats) {
  const std::string layout = backend.layout();
  return {key, layout, layout.empty() ? &backend : nullptr, formats};
}

std::shared_ptr<const Model> Runtime::load(const std::string& key, const ModelConfig& config,
                                           const WeightsSource& source, const std::shared_ptr<Backend>& backend,
                                           const WeightFormats& formats, const LoadProgress& progress,
                                           const WeightCache& cache) {
  const Key full_key = key_of(key, *backend, formats);
  std::unique_lock lock(mutex_);
  // Entries whose model is gone and that nobody is using are dropped here, so that the map does not grow.
  std::erase_if(models_, [&](const auto& item) {
    return item.first != full_key && item.second.use_count() == 1 && item.second->model.expired();
  });
  std::shared_ptr<Entry>& slot = models_[full_key];
  if (!slot) slot = std::make_shared<Entry>();
  const std::shared_ptr<Entry> entry = slot;
  for (;;) {
    if (std::shared_ptr<const Model> model = entry->model.lock()) return model;
    if (!entry->loading) break;
    changed_.wait_for(lock, kWait);
    if (cancelled(progress)) throw Error(ErrorCode::kAborted, "loading was cancelled");
    const int64_t done = entry->done, total = entry->total;
    if (!entry->loading || total == 0 || !progress.report) continue;
    lock.unlock();
    progress.report(done, total);
    lock.lock();
  }
  entry->loading = true;
  entry->done = entry->total = 0;
  lock.unlock();

  const auto finish = [&](const std::shared_ptr<const Model>& model) {
    const std::lock_guard guard(mutex_);
    entry->loading = false;
    entry->model = model;
    changed_.notify_all();
  };
  try {
    LoadProgress shared = progress;
    shared.report = [&](int64_t done, int64_t total) {
      entry->done = done;
      entry->total = total;
      if (progress.report) progress.report(done, total);
    };
    std::shared_ptr<const Model> model = Model::load(config, source, *backend, formats, shared, cache);
    finish(model);
    return model;
  } catch (...) {
    finish(nullptr);
    throw;
  }
}

bool Runtime::holds(const std::string& key, const std::shared_ptr<Backend>& backend, const WeightFormats& formats) {
  const std::lock_guard lock(mutex_);
  const auto known = models_.find(key_of(key, *backend, formats));
  return known != models_.end() && !known->second->model.expired();
}

}  // namespace qwen3
