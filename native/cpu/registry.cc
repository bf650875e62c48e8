#include <string>

#include "core/status.h"
#include "ops/backend.h"

namespace qwen3 {

std::unique_ptr<Backend> create_backend(std::string_view device, int threads) {
  if (device == "reference") return create_reference_backend();
  if (device == "auto" || device == "cpu") return create_cpu_backend(threads, "auto");
  if (device.starts_with("cuda")) {
    throw Error(ErrorCode::kUnsupported,
                "this version runs on the CPU only; load the model with device 'auto' or 'cpu'", "device");
  }
  throw Error(ErrorCode::kUnsupported, "device must be 'auto' or 'cpu', received '" + std::string(device) + "'",
              "device");
}

}  // namespace qwen3
