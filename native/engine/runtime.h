#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "model/model.h"
#include "ops/backend.h"

namespace qwen3 {

// What a process shares between all its models and threads: backends, kept for the life of the process because their
// thread pools are few and dear to restart, and packed weights, kept while a model uses them. It is the only static of
// the engine and is never destroyed: threads of an exiting process may still use it. Thread safe.
class Runtime {
 public:
  static Runtime& get();

  // Equal arguments give the same backend; "auto" is whatever it stands for. threads: 0 = physical cores. Throws
  // Error(kUnsupported) for devices that this build lacks ("device") and instruction sets that the machine lacks
  // ("isa").
  std::shared_ptr<Backend> backend(const std::string& device, int threads, const std::string& isa = "auto",
                                   BatchInvariance invariance = BatchInvariance::kBatch);

  // Packed weights under the caller's key (real path, mtime, ...; the formats and the backend's layout are added here:
  // backends of one layout share weights). While a model of that key lives it is returned at once. Of calls with one
  // key at a time, one loads and the others wait for it, each until its own `progress.cancelled`; when the loading one
  // fails or is cancelled, another takes over. Throws what Model::load throws.
  std::shared_ptr<const Model> load(const std::string& key, const ModelConfig& config, const WeightsSource& source,
                                    const std::shared_ptr<Backend>& backend, const WeightFormats& formats,
                                    const LoadProgress& progress, const WeightCache& cache = {});

  // True while packed weights of that key live, so that loading it again takes no memory for them. Only a moment's
  // truth.
  bool holds(const std::string& key, const std::shared_ptr<Backend>& backend, const WeightFormats& formats);

 private:
  // The backend alone where it has no layout to share.
  using Key = std::tuple<std::string, std::string, const Backend*, WeightFormats>;
  static Key key_of(const std::string& key, const Backend& backend, const WeightFormats& formats);
  struct Entry {
    std::weak_ptr<const Model> model;
    bool loading = false;
    std::atomic<int64_t> done{0}, total{0};  // of the load that runs, for those who wait
  };

  Runtime() = default;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::tuple<std::string, int, std::string, BatchInvariance>, std::shared_ptr<Backend>> backends_;
  std::map<Key, std::shared_ptr<Entry>> models_;
};

}  // namespace qwen3
