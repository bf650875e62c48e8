#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
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

struct LoadProgress {
  std::function<void(int64_t done_bytes, int64_t total_bytes)> report;  // called from loading threads, monotonic
  const std::atomic<bool>* cancelled = nullptr;                         // checked between tensors and row ranges
};

// The packed weights of one checkpoint on one backend in one format, and the recorded programs that use them.
// Immutable after load; shared by every model object that loads the same file.
class Model {
 public:
  // Throws Error: kBadModelFile (missing tensor, wrong shape, truncated), kOutOfMemory, kAborted, kUnsupported.
  static std::shared_ptr<const Model> load(const ModelConfig& config, const WeightsSource& source, Backend& backend,
                                           WeightFormat format, const LoadProgress& progress);
  virtual ~Model() = default;

  // Bytes the packed weights take; computable before anything is read.
  static int64_t weight_bytes(const ModelConfig& config, const Backend& backend, WeightFormat format);

  const ModelConfig& config() const { return config_; }
  // yarn: adds rope table 1. The program's weights are numbered as weights() lists them.
  std::shared_ptr<const Program> program(const std::optional<YarnConfig>& yarn) const;
  const std::vector<std::shared_ptr<const Weight>>& weights() const { return weights_; }

 protected:
  Model() = default;
  ModelConfig config_;
  WeightFormat format_ = WeightFormat::kBF16;
  std::vector<std::shared_ptr<const Weight>> weights_;
};

// Records the forward pass of a dense or MoE Qwen3 (model/forward.cc): one readable function, one operation a line.
std::shared_ptr<const Program> record_forward(const ModelConfig& config, const std::optional<YarnConfig>& yarn,
                                              DType linear_input);

// YaRN NTK-by-parts inverse frequencies and attention factor in f64 (arXiv 2309.00071, section 3.2); unscaled when
// !yarn.
Program::RopeTable rope_table(const ModelConfig& config, const std::optional<YarnConfig>& yarn);

}  // namespace qwen3
