#include <string>

#include "core/memory.h"
#include "core/status.h"
#include "ops/backend.h"

namespace qwen3 {

std::unique_ptr<Weight> Backend::adopt(WeightUse, WeightFormat, int64_t, int64_t, std::span<const std::byte>,
                                       std::shared_ptr<const void>) {
  throw Error(ErrorCode::kUnsupported, "the weights of this device cannot be kept in a file", "weightCache");
}

int64_t Backend::available_memory() const {
  return qwen3::available_memory();
}

void Executable::enqueue(const StepBatch&, KvCache&, std::span<const RowSampling>) {
  throw Error(ErrorCode::kInternal, "this device does not draw tokens");
}

void Executable::collect(std::span<int32_t>, std::span<RowLogprobs>) {
  throw Error(ErrorCode::kInternal, "this device does not draw tokens");
}

// On the CPU every grade of batch invariance is the full one.
std::unique_ptr<Backend> create_backend(std::string_view device, int threads, std::string_view isa,
                                        BatchInvariance invariance) {
  if (device == "auto" || device == "cpu") return create_cpu_backend(threads, isa);
  if (isa != "auto") {
    throw Error(ErrorCode::kInvalidArgument, "isa is for the CPU; use 'auto' with device '" + std::string(device) + "'",
                "isa");
  }
  if (device == "reference") return create_reference_backend();
  if (device.starts_with("cuda")) return create_cuda_backend(device, invariance);
  throw Error(ErrorCode::kUnsupported, "device must be 'auto', 'cpu' or 'cuda', received '" + std::string(device) + "'",
              "device");
}

}  // namespace qwen3
