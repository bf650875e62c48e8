// runtime.h on the emulated device (driver.h). Environment variables stand for what a machine may be like:
// QWEN3_EMULATED_DRIVER (a version; 0: none), QWEN3_EMULATED_DEVICES, QWEN3_EMULATED_MEMORY (bytes),
// QWEN3_EMULATED_SCHEDULE (early, late, or a seed), QWEN3_EMULATED_COMPUTE (90: the kernels of sm_90a; default 80),
// QWEN3_EMULATED_FAULT (what fails and when).

#include "cuda/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "cuda/emulate/driver.h"
#include "cuda/emulate/global_memory.h"
#include "cuda/emulate/launch.h"

namespace qwen3::cuda {
namespace {

int64_t setting(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoll(value, nullptr, 10) : otherwise;
}

}  // namespace

int driver_version() {
  return static_cast<int>(setting("QWEN3_EMULATED_DRIVER", 13000));
}
int device_count() {
  const auto unsupported = [](const std::string& why) {
    return Error(ErrorCode::kUnsupported, "no CUDA device can be used: " + why, "device");
  };
  const auto n = static_cast<int>(setting("QWEN3_EMULATED_DEVICES", 1));
  if (n == 0) throw unsupported("cudaGetDeviceCount: cudaErrorNoDevice (no CUDA-capable device is detected)");
  try {
    emulate::maybe_fail("count");
  } catch (const Error& error) {
    throw unsupported(error.what());
  }
  return n;
}

DeviceDescription describe_device(int device) {
  emulate::maybe_fail("describe");
  DeviceDescription d;
  d.name = "emulated device " + std::to_string(device);
  const auto compute = static_cast<int>(setting("QWEN3_EMULATED_COMPUTE", 80));
  d.major = compute / 10, d.minor = compute % 10, d.multiprocessors = 2;
  d.hopper = compute == 90;
  d.memory_bytes = setting("QWEN3_EMULATED_MEMORY", int64_t{1} << 30);
  d.free_bytes = d.memory_bytes - static_cast<int64_t>(emulate::GlobalMemory::device().used(device));
  return d;
}

void use_device(int device) {
  emulate::use_device(device);
  const char* text = std::getenv("QWEN3_EMULATED_SCHEDULE");
  if (!text) return;
  auto& schedule = emulate::Session::current().schedule;
  schedule.completion = std::strcmp(text, "early") == 0  ? emulate::Completion::kEarly
                        : std::strcmp(text, "late") == 0 ? emulate::Completion::kLate
                                                         : emulate::Completion::kRandom;
  schedule.seed = std::strtoull(text, nullptr, 10);
  emulate::Session::current().launches.clear();
}
std::string device_error(int device) {
  try {
    emulate::use_device(device);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}
void reset_device(int device) noexcept {
  emulate::reset_device(device);
}

Stream create_stream() {
  emulate::maybe_fail("create");
  return emulate::open_stream();
}
void destroy_stream(Stream stream) {
  emulate::close_stream(stream);
}
void synchronize(Stream stream) {
  if (stream && stream->captured)
    throw Error(ErrorCode::kInternal, "cudaStreamSynchronize: cudaErrorStreamCaptureUnsupported");
  emulate::maybe_fail("wait");
  ++emulate::driver_counters().synchronisations;
  emulate::drain(stream);
}

Event create_event() {
  emulate::maybe_fail("create");
  return new CUevent_st;
}
void destroy_event(Event event) {
  delete event;
}
void record(Event event, Stream stream) {
  emulate::use_stream(stream, "record");
  event->stream = stream, event->ticket = stream->submitted;
}
void wait(Event event) {
  emulate::maybe_fail("wait");
  ++emulate::driver_counters().event_waits;
  if (event->stream) emulate::run_until(event->stream, event->ticket);
}

void wait_on(Stream stream, Event event) {
  emulate::use_stream(stream, "wait_on");
  if (event->stream) emulate::submit_wait(stream, event->stream, event->ticket);
}

void begin_capture(Stream stream) {
  emulate::use_stream(stream, "capture");
  stream->captured = std::make_unique<std::vector<std::function<void()>>>();
}
Graph end_capture(Stream stream) {
  emulate::maybe_fail("end_capture");
  auto graph = std::make_unique<CUgraphExec_st>();
  graph->nodes = std::move(*stream->captured);
  stream->captured.reset();
  emulate::maybe_fail("instantiate");
  return graph.release();
}
void abandon_capture(Stream stream) noexcept {
  stream->captured.reset();
}
void launch_graph(Graph graph, Stream stream) {
  ++emulate::driver_counters().graph_launches;
  emulate::submit_graph(stream, *graph);
}
void destroy_graph(Graph graph) {
  emulate::drain_all();  // it may still be queued
  delete graph;
}

void* allocate(size_t bytes) {
  emulate::maybe_fail("allocate");
  ++emulate::driver_counters().allocations;
  auto& memory = emulate::GlobalMemory::device();
  memory.set_limit(static_cast<size_t>(setting("QWEN3_EMULATED_MEMORY", int64_t{1} << 30)));
  void* pointer = memory.allocate(bytes, std::to_string(bytes) + " bytes", emulate::current_device());
  if (!pointer) {
    throw Error(ErrorCode::kOutOfMemory,
                "cudaMalloc of " + std::to_string(bytes) + " bytes: cudaErrorMemoryAllocation (out of memory)");
  }
  return pointer;
}
void release(void* pointer) {
  ++emulate::driver_counters().allocations;
  emulate::drain_all();  // cudaFree waits for the device
  emulate::GlobalMemory::device().release(pointer);
}
void* allocate_pinned(size_t bytes) {
  emulate::maybe_fail("pinned");
  ++emulate::driver_counters().pinned_allocations;
  void* pointer = std::malloc(bytes);
  if (!pointer) throw Error(ErrorCode::kOutOfMemory, "cudaHostAlloc of " + std::to_string(bytes) + " bytes");
  return pointer;
}
void release_pinned(void* pointer) {
  ++emulate::driver_counters().pinned_allocations;
  emulate::drain_all();
  std::free(pointer);
}

namespace {
void require_on_device(const void* begin, size_t bytes) {
  if (bytes == 0) return;
  const auto* const range = emulate::GlobalMemory::device().find(reinterpret_cast<uintptr_t>(begin), bytes);
  if (!range) throw Error(ErrorCode::kInternal, "copy: outside of the device's memory");
  emulate::require_current(range->device, "copy");
}
}  // namespace

void copy_to_device(Stream stream, void* to, const void* from, size_t bytes) {
  require_on_device(to, bytes);
  emulate::submit_copy(stream, [=] { std::memcpy(to, from, bytes); });
}
void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  require_on_device(from, bytes);
  emulate::submit_copy(stream, [=] { std::memcpy(to, from, bytes); });
}
void copy_on_device(Stream stream, void* to, const void* from, size_t bytes) {
  require_on_device(to, bytes), require_on_device(from, bytes);
  emulate::submit_copy(stream, [=] { std::memcpy(to, from, bytes); });
}
void fill_bytes(Stream stream, void* to, int byte, size_t bytes) {
  require_on_device(to, bytes);
  emulate::submit_copy(stream, [=] { std::memset(to, byte, bytes); });
}

}  // namespace qwen3::cuda

// For tests, which find it in the library that they opened: emulate::DriverCounters as plain numbers.
extern "C" __attribute__((visibility("default"))) void qwen3_cuda_emulated_counters(int64_t* out) {
  const auto& c = qwen3::cuda::emulate::driver_counters();
  const int64_t values[] = {c.launches,    c.graph_launches, c.captured_launches,  c.copies, c.synchronisations,
                            c.event_waits, c.allocations,    c.pinned_allocations, c.resets};
  std::copy(std::begin(values), std::end(values), out);
}

// The same: the kernels that this host thread has run since it last asked, in order, those of graphs too.
extern "C" __attribute__((visibility("default"))) void qwen3_cuda_emulated_launches(
    void (*visit)(void* context, const char* kernel, int32_t overlaps_previous), void* context) {
  auto& launches = qwen3::cuda::emulate::Session::current().launches;
  for (const auto& launch : launches) visit(context, launch.kernel.c_str(), launch.overlaps_previous ? 1 : 0);
  launches.clear();
}
