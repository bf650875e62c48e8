#pragma once

// Time on the device. clock_device.cc: CUDA events and graphs; clock_emulated.cc: the host's clock, so that the
// programs' own logic runs without a GPU.

#include <functional>

#include "cuda/ptx/types.h"

namespace qwen3::gpu_bench {

// Larger than the L2 of any chip: what a call reads must have gone through at least this much since it was read last.
constexpr double kColdBytes = 256e6;

// Median seconds of call(i), i = 0, 1, ...; a call reads `bytes` that no other i reads, so that the L2 is cold. On a
// device enough calls for a millisecond are captured as one graph and replayed, and the host's launch cost is not in
// the figure. `call` must queue work on the stream only.
double median_seconds(cuda::Stream stream, double bytes, const std::function<void(int)>& call);

// Median seconds of call(), queued on the stream as it is, without a graph: of one that runs longer than its launch.
double stream_seconds(cuda::Stream stream, const std::function<void()>& call);

// Median seconds by the host's clock of `call`, which returns when its work is done.
double median_host_seconds(int repetitions, const std::function<void()>& call);

}  // namespace qwen3::gpu_bench
