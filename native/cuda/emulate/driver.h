#pragma once

// The emulated driver: streams that run behind the host, events, graphs, and what it counts. Work on a stream runs when
// somebody waits for it, at once, or at moments between, as the schedule says (launch.h, Session): host memory that is
// reused too early, a result that is read before it is there and a missing wait show. The null stream runs at once.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/ptx/types.h"

// CUDA's own names, so that runtime.h is the same for both.
struct CUstream_st {
  std::deque<std::function<void()>> pending;
  uint64_t submitted = 0, done = 0;
  std::unique_ptr<std::vector<std::function<void()>>> captured;  // not null: being captured
  int device = 0;
  int64_t context = 0;  // of the device when it was opened: a reset begins another one
};
struct CUevent_st {
  CUstream_st* stream = nullptr;
  uint64_t ticket = 0;  // done when stream->done has reached it
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> nodes;
};

namespace qwen3::cuda::emulate {

// Since the process began; atomic snapshots are not needed, tests read them while nothing runs.
struct DriverCounters {
  int64_t launches = 0;                             // of kernels by the host, captured ones not counted
  int64_t graph_launches = 0;                       // of whole graphs
  int64_t captured_launches = 0;                    // kernels recorded into graphs
  int64_t copies = 0;                               // and fills
  int64_t synchronisations = 0;                     // host waits for everything on a stream, or for the device
  int64_t event_waits = 0;                          // host waits for one point of a stream
  int64_t allocations = 0, pinned_allocations = 0;  // and releases
  int64_t resets = 0;                               // of a device
};
DriverCounters& driver_counters();

// Each host thread has a current device. What is allocated and opened belongs to it, and is an error to launch on, copy
// to or record on while another one is current: stricter than CUDA, where some of that works and makes a context on the
// wrong device. Switching to a device that was lost throws too, but switches.
int current_device();
void use_device(int device);
void require_current(int device, const char* what);

// What a test asks to go wrong (QWEN3_EMULATED_FAULT = "where:after[:sticky|:memory]"): the call of that kind after so
// many others fails with CUDA's name of an error. A sticky one loses the current device: every later call there fails
// with it until the device is reset. `where`: count, describe, create, launch, wait, record, wait_on, copy, allocate,
// pinned, capture (begin), end_capture, instantiate.
void maybe_fail(const char* where);
void reset_device(int device);

// Before work is given to a stream: may fail as above, and must be of the current device, since its last reset.
void use_stream(Stream stream, const char* where);
void submit(Stream stream, std::function<void()> kernel);  // launch() comes here
void submit_copy(Stream stream, std::function<void()> work);
// Work of `stream` behind this waits for what `other` had submitted up to `ticket`.
void submit_wait(Stream stream, Stream other, uint64_t ticket);
void submit_graph(Stream stream, const CUgraphExec_st& graph);
void run_until(Stream stream, uint64_t ticket);
void drain(Stream stream);
void drain_all() noexcept;
Stream open_stream();
void close_stream(Stream stream);

}  // namespace qwen3::cuda::emulate
