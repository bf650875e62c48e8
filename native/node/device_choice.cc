#include "node/device_choice.h"

#include "core/status.h"
#include "cuda/client/cuda_backend.h"
#include "engine/runtime.h"

namespace qwen3::node {
namespace {

// Activations, and a cache worth having, beside the weights.
int64_t with_room(int64_t weight_bytes) {
  return weight_bytes + weight_bytes / 4 + (int64_t{256} << 20);
}

bool takes(const LoadSpec& spec, const std::string& device) {
  try {
    Runtime& runtime = Runtime::get();
    const std::shared_ptr<Backend> backend = runtime.backend(device, spec.threads, spec.isa, spec.invariance);
    const auto program = record_forward(spec.config, spec.engine.yarn, spec.formats);
    backend->kv_block_bytes(*program,
                            spec.engine.kv_dtype);  // refuses formats and shapes that the device does not have
    const int64_t weights =
        runtime.holds(spec.key, backend, spec.formats) ? 0 : Model::weight_bytes(spec.config, *backend, spec.formats);
    return with_room(weights) <= backend->available_memory();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kUnsupported || error.code() == ErrorCode::kOutOfMemory) return false;
    throw;
  }
}

}  // namespace

std::string choose_device(const LoadSpec& spec) {
  if (spec.device != "auto") return spec.device;
  if (spec.isa != "auto") return "cpu";
  for (const CudaDevice& device : cuda_report().devices) {
    if (!device.reason.empty()) continue;
    const std::string name = "cuda:" + std::to_string(device.index);
    if (takes(spec, name)) return name;
  }
  return "cpu";
}

}  // namespace qwen3::node
