#include "clock.h"
#include "cuda/runtime.h"

namespace qwen3::gpu_bench {

double median_seconds(cuda::Stream stream, double, const std::function<void(int)>& call) {
  int i = 0;
  return median_host_seconds(2, [&] { call(i++), cuda::synchronize(stream); });
}

double stream_seconds(cuda::Stream stream, const std::function<void()>& call) {
  return median_host_seconds(2, [&] { call(), cuda::synchronize(stream); });
}

}  // namespace qwen3::gpu_bench
