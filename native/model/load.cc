#include <algorithm>
#include <mutex>
#include <new>
#include <utility>

#include "core/checked.h"
#include "core/checksum.h"
#include "core/memory.h"
#include "core/status.h"
#include "model/checkpoint.h"
#include "model/model.h"
#include "model/random_weights.h"
#include "model/weight_file.h"
#include "model/weight_plan.h"

namespace qwen3 {
namespace {

// Reads between two looks at the cancel flag and two progress reports.
constexpr int64_t kPieceBytes = int64_t{8} << 20;
// Left free beside the weights: activations, tables and the process itself.
constexpr int64_t kReserveBytes = int64_t{64} << 20;

// Counts bytes as loading threads read them and lets the caller stop the load.
class Meter {
 public:
  Meter(const LoadProgress& progress, int64_t total) : progress_(progress), total_(total) {}

  void check() const {
    if (progress_.cancelled && progress_.cancelled->load(std::memory_order_relaxed)) {
      throw Error(ErrorCode::kAborted, "loading was cancelled");
    }
  }

  void add(int64_t bytes) {
    const std::lock_guard lock(mutex_);  // one report at a time, so that the counts arrive in order
    done_ += bytes;
    // A backend may read rows twice; progress stays within the total.
    if (progress_.report) progress_.report(std::min(done_, total_), total_);
  }

 private:
  const LoadProgress& progress_;
  const int64_t total_;
  std::mutex mutex_;
  int64_t done_ = 0;
};

// The same source in pieces, with the meter between them.
MatrixSource metered(MatrixSource source, Meter& meter) {
  const int64_t row_bytes = source.cols * dtype_bytes(source.dtype);
  const int64_t step = std::max<int64_t>(1, kPieceBytes / row_bytes);
  auto read = [inner = std::move(source.read), row_bytes, step, &meter](int64_t begin, int64_t end, void* out) {
    for (int64_t at = begin; at < end; at += step) {
      const int64_t stop = std::min(at + step, end);
      meter.check();
      inner(at, stop, static_cast<char*>(out) + (at - begin) * row_bytes);
      meter.add((stop - at) * row_bytes);
    }
  };
  source.read = std::move(read);
  return source;
}

int64_t source_bytes(const MatrixSource& source) {
  return source.rows * source.cols * dtype_bytes(source.dtype);
}

int64_t plan_bytes(const WeightPlan& plan, const Backend& backend) {
  int64_t total = 0;
  for (const WeightSpec& spec : plan.specs) {
    total = checked_add(total, backend.packed_bytes(spec.use, spec.format, spec.rows, spec.cols));
  }
  return total;
}

using Weights = std::vector<std::shared_ptr<const Weight>>;

Weights pack_all(const WeightPlan& plan, Checkpoint& checkpoint, Backend& backend, const LoadProgress& progress) {
  // Every tensor is found and checked before the first byte is packed: a damaged checkpoint fails at once.
  std::vector<std::vector<MatrixSource>> sources;
  int64_t total = 0;
  for (const WeightSpec& spec : plan.specs) {
    auto& of_weight = sources.emplace_back();
    for (const TensorSpec& tensor : spec.tensors) {
      of_weight.push_back(checkpoint.find(tensor));
      total = checked_add(total, source_bytes(of_weight.back()));
    }
  }
  Meter meter(progress, total);
  Weights weights;
  for (size_t i = 0; i < plan.specs.size(); ++i) {
    meter.check();
    for (MatrixSource& source : sources[i]) source = metered(std::move(source), meter);
    weights.push_back(backend.pack(plan.specs[i].use, plan.specs[i].format, sources[i]));
    sources[i].clear();
  }
  return weights;
}

// Everything that decides the packed bytes beside the plan's shapes and formats: which tensors they are read from, and
// how they are packed.
std::string cache_identity(const WeightsSource& source, const WeightPlan& plan, const Backend& backend,
                           const WeightCache& cache) {
  std::string tensors;
  for (const TensorRef& ref : source.tensors) {
    tensors += ref.name + '\n' + ref.path + '\n' + std::to_string(ref.offset) + ' ' + std::to_string(ref.bytes) + ' ' +
               std::to_string(static_cast<int>(ref.dtype));
    for (const int64_t n : ref.shape) tensors += ' ' + std::to_string(n);
    tensors += '\n';
  }
  for (const WeightSpec& spec : plan.specs) {
    for (const TensorSpec& tensor : spec.tensors) tensors += tensor.name + '\n';
  }
  const std::string generator =
      source.random ? "random " + std::to_string(kRandomWeightsVersion) + " seed " + std::to_string(source.seed) + '\n'
                    : "";
  return "layout " + backend.layout() + "\nsource " + cache.key + '\n' + generator + "tensors " +
         std::to_string(checksum(tensors.data(), tensors.size())) + '\n';
}

std::string cache_path(const WeightCache& cache, const WeightFormats& formats, const Backend& backend) {
  const std::string folder = cache.folder.ends_with('/') ? cache.folder : cache.folder + '/';
  std::string path = folder + cache.name + '-' + weight_format_name(formats.weights);
  for (const WeightFormat format : {formats.embedding, formats.head}) {
    if (formats != WeightFormats(formats.weights)) path += std::string("-") + weight_format_name(format);
  }
  return path + '-' + backend.layout() + ".weights";
}

// The weights out of the cache or packed, and then kept in it.
Weights cached_weights(const WeightsSource& source, const WeightPlan& plan, Backend& backend,
                       const WeightFormats& formats, const LoadProgress& progress, const WeightCache& cache,
                       WeightCacheUse& use) {
  Checkpoint checkpoint(source);
  if (cache.folder.empty()) return pack_all(plan, checkpoint, backend, progress);
  use.state = WeightCacheUse::State::kFailed;
  if (backend.layout().empty()) {
    use.problem = "the weights of this device cannot be kept in a file";
    return pack_all(plan, checkpoint, backend, progress);
  }
  use.path = cache_path(cache, formats, backend);
  const WeightFile file(use.path, cache_identity(source, plan, backend, cache), plan, backend);
  Weights weights = file.read({progress.report, progress.cancelled}, &use.problem);
  if (!weights.empty()) {
    use.state = WeightCacheUse::State::kMapped;
    use.problem.clear();
    return weights;
  }
  weights = pack_all(plan, checkpoint, backend, progress);
  if (file.write(weights, {nullptr, progress.cancelled}, &use.problem)) {
    use.state = WeightCacheUse::State::kWritten;
    use.problem.clear();
  }
  return weights;
}

}  // namespace

int64_t Model::weight_bytes(const ModelConfig& config, const Backend& backend, const WeightFormats& formats) {
  config.validate();
  return plan_bytes(plan_weights(config, formats), backend);
}

std::shared_ptr<const Model> Model::load(const ModelConfig& config, const WeightsSource& source, Backend& backend,
                                         const WeightFormats& formats, const LoadProgress& progress,
                                         const WeightCache& cache) {
  config.validate();
  try {
    const WeightPlan plan = plan_weights(config, formats);
    require_memory(checked_add(plan_bytes(plan, backend), kReserveBytes), "the model", backend.available_memory());
    std::shared_ptr<Model> model(new Model());
    model->config_ = config;
    model->formats_ = formats;
    model->weights_ = cached_weights(source, plan, backend, formats, progress, cache, model->cache_use_);
    return model;
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kOutOfMemory, "memory ran out while the model was loaded; nothing was kept");
  }
}

std::shared_ptr<const Program> Model::program(const std::optional<YarnConfig>& yarn) const {
  return record_forward(config_, yarn, formats_);
}

}  // namespace qwen3
