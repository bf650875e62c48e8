#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weight_formats.h"
#include "ops/backend.h"

namespace qwen3 {

// Where one checkpoint tensor lies. Offsets were checked against the file's size in TypeScript and are checked again
// here.
struct TensorRef {
  std::string name;    // "model.layers.0.self_attn.q_proj.weight"
  std::string path;    // file; empty for random weights
  int64_t offset = 0;  // bytes from the start of the file
  int64_t bytes = 0;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
};

// What the weights come from: files, or the seeded generator of `random:` models (a function of seed, tensor and
// index).
struct WeightsSource {
  std::vector<TensorRef> tensors;
  bool random = false;
  uint64_t seed = 0;
};

// Where a load may keep the packed weights for the next one. `name` begins the file's name: one for each source, so
// that a changed source replaces its file. `key` is the source's identity (real paths, sizes, times; or row and seed).
struct WeightCache {
  std::string folder, name, key;  // no folder: nothing is kept
};

// What became of the cache: kMapped: the weights are a mapped file's. kWritten: they were packed and written. kFailed:
// packed, but the file could not be written; `problem` says why.
struct WeightCacheUse {
  enum class State : uint8_t { kOff, kMapped, kWritten, kFailed };
  State state = State::kOff;
  std::string path, problem;
};

struct LoadProgress {
  std::function<void(int64_t done_bytes, int64_t total_bytes)> report;  // called from loading threads, monotonic
  const std::atomic<bool>* cancelled = nullptr;                         // checked between tensors and row ranges
};

// The packed weights of one checkpoint in one layout and choice of formats, and the recorded programs that use them.
// Immutable after load; shared by every model object that loads the same file.
class Model {
 public:
  // Throws Error: kBadModelFile (missing tensor, wrong shape, truncated), kOutOfMemory, kAborted, kUnsupported.
  // Problems with the cache are no errors: see cache_use().
  static std::shared_ptr<const Model> load(const ModelConfig& config, const WeightsSource& source, Backend& backend,
                                           const WeightFormats& formats, const LoadProgress& progress,
                                           const WeightCache& cache = {});
  virtual ~Model() = default;

  // Bytes the packed weights take; computable before anything is read.
  static int64_t weight_bytes(const ModelConfig& config, const Backend& backend, const WeightFormats& formats);

  const ModelConfig& config() const { return config_; }
  const WeightFormats& formats() const { return formats_; }
  const WeightCacheUse& cache_use() const { return cache_use_; }
  // yarn: adds rope table 1. The program's weights are numbered as weights() lists them.
  std::shared_ptr<const Program> program(const std::optional<YarnConfig>& yarn) const;
  const std::vector<std::shared_ptr<const Weight>>& weights() const { return weights_; }

 protected:
  Model() = default;
  ModelConfig config_;
  WeightFormats formats_;
  WeightCacheUse cache_use_;
  std::vector<std::shared_ptr<const Weight>> weights_;
};

// Records the forward pass of a dense or MoE Qwen3 (model/forward.cc): one readable function, one operation a line.
std::shared_ptr<const Program> record_forward(const ModelConfig& config, const std::optional<YarnConfig>& yarn,
                                              const WeightFormats& formats);

// YaRN NTK-by-parts inverse frequencies and attention factor in f64 (arXiv 2309.00071, section 3.2); unscaled when
// !yarn.
Program::RopeTable rope_table(const ModelConfig& config, const std::optional<YarnConfig>& yarn);

}  // namespace qwen3
