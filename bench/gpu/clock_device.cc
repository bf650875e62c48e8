#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "clock.h"
#include "core/status.h"

namespace qwen3::gpu_bench {
namespace {

constexpr int kSamples = 11, kMostCalls = 256;
constexpr double kSampleSeconds = 1e-3;

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw Error(ErrorCode::kInternal, std::string(what) + ": " + cudaGetErrorName(status));
}

struct Events {
  cudaEvent_t begin{}, end{};
  Events() { check(cudaEventCreate(&begin), "cudaEventCreate"), check(cudaEventCreate(&end), "cudaEventCreate"); }
  ~Events() { cudaEventDestroy(begin), cudaEventDestroy(end); }
  template <class Body>
  double seconds(cudaStream_t stream, Body body) const {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    body();
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "a measured call");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    return ms / 1e3;
  }
};

struct Graph {
  cudaGraph_t graph{};
  cudaGraphExec_t executable{};
  ~Graph() {
    if (executable) cudaGraphExecDestroy(executable);
    if (graph) cudaGraphDestroy(graph);
  }
};

// The first two warm up.
template <class Body>
double median(const Events& events, cudaStream_t stream, Body body) {
  std::vector<double> samples;
  for (int i = 0; i < kSamples + 2; ++i) {
    const double s = events.seconds(stream, body);
    if (i >= 2) samples.push_back(s);
  }
  std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
  return samples[kSamples / 2];
}

}  // namespace

double median_seconds(cuda::Stream stream, double bytes, const std::function<void(int)>& call) {
  const Events events;
  call(0);  // loads the kernel's code
  const double once = events.seconds(stream, [&] { call(1); });
  const double wanted = std::max(kSampleSeconds / std::max(once, 1e-7), bytes > 0 ? kColdBytes / bytes : 1);
  const int calls = static_cast<int>(std::clamp(std::ceil(wanted), 1.0, double{kMostCalls}));
  Graph captured;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < calls; ++i) call(i);
  check(cudaStreamEndCapture(stream, &captured.graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&captured.executable, captured.graph, 0), "cudaGraphInstantiate");
  return median(events, stream, [&] { check(cudaGraphLaunch(captured.executable, stream), "graph"); }) / calls;
}

double stream_seconds(cuda::Stream stream, const std::function<void()>& call) {
  return median(Events(), stream, call);
}

}  // namespace qwen3::gpu_bench
