#include "cuda/emulate/driver.h"

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "core/status.h"
#include "cuda/emulate/global_memory.h"
#include "cuda/emulate/launch.h"

namespace qwen3::cuda::emulate {
namespace {

// Streams are used by one host thread at a time each; this lock is for what they share.
std::recursive_mutex& lock() {
  static std::recursive_mutex mutex;
  return mutex;
}
std::set<Stream>& streams() {
  static std::set<Stream> all;
  return all;
}

struct PlantedError {
  std::string text;  // as the environment had it when it was armed
  std::string where;
  int64_t left = 0;
  bool armed = false, sticky = false, memory = false;
};
PlantedError& planted() {
  static PlantedError f;
  return f;
}
struct DeviceContext {
  bool lost = false;
  int64_t number = 0;  // counts resets
};
DeviceContext& context_of(int device) {
  static std::array<DeviceContext, 64> all;
  return all.at(static_cast<size_t>(device));
}
std::exception_ptr& late_error() {
  static std::exception_ptr error;
  return error;
}

[[noreturn]] void fail(const std::string& what, const char* error, const char* words) {
  const bool memory = std::strcmp(error, "cudaErrorMemoryAllocation") == 0;
  throw Error(memory ? ErrorCode::kOutOfMemory : ErrorCode::kInternal, what + ": " + error + " (" + words + ")");
}
void fail_if_lost(int device, const std::string& what) {
  if (context_of(device).lost) fail(what, "cudaErrorIllegalAddress", "an illegal memory access was encountered");
}

void arm() {
  const char* text = std::getenv("QWEN3_EMULATED_FAULT");
  PlantedError& f = planted();
  if (f.text == (text ? text : "")) return;
  f = {};
  if (!text) return;
  f.text = text;
  const std::string all = text;
  const size_t colon = all.find(':');
  f.where = all.substr(0, colon);
  f.left = colon == std::string::npos ? 0 : std::strtoll(all.c_str() + colon + 1, nullptr, 10);
  f.sticky = all.ends_with(":sticky");
  f.memory = all.ends_with(":memory") || f.where == "allocate" || f.where == "pinned";
  f.armed = true;
}

}  // namespace

void use_stream(Stream stream, const char* what) {
  maybe_fail(what);
  require_current(stream->device, what);
  const std::lock_guard guard(lock());
  if (stream->context != context_of(stream->device).number)
    fail(what, "cudaErrorContextIsDestroyed", "context is destroyed");
}

DriverCounters& driver_counters() {
  static DriverCounters counters;
  return counters;
}

void maybe_fail(const char* where) {
  const std::lock_guard guard(lock());
  fail_if_lost(current_device(), where);
  if (late_error() && std::strcmp(where, "wait") == 0) std::rethrow_exception(std::exchange(late_error(), nullptr));
  arm();
  PlantedError& f = planted();
  if (!f.armed || f.where != where || f.left-- > 0) return;
  f.armed = f.where == "count";  // it stays so
  if (f.sticky) {
    context_of(current_device()).lost = true;
    fail_if_lost(current_device(), where);
  }
  if (f.memory) fail(f.where, "cudaErrorMemoryAllocation", "out of memory");
  if (f.where == "count") fail("cudaGetDeviceCount", "cudaErrorSystemNotReady", "system not yet initialized");
  if (f.where == "describe") fail("cudaSetDevice", "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy");
  fail(where, "cudaErrorLaunchOutOfResources", "too many resources requested for launch");
}

namespace {
int& this_threads_device() {
  static thread_local int device = 0;
  return device;
}
}  // namespace
int current_device() {
  return this_threads_device();
}
void use_device(int device) {
  const std::lock_guard guard(lock());
  this_threads_device() = device;
  fail_if_lost(device, "cudaSetDevice");
}
void require_current(int device, const char* what) {
  if (device == current_device()) return;
  throw Error(ErrorCode::kInternal, std::string(what) + ": of device " + std::to_string(device) + ", while device " +
                                        std::to_string(current_device()) + " is current");
}

// Takes a while, as it does on a device: who else believes that it must be reset is seen to do so twice.
void reset_device(int device) {
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::lock_guard guard(lock());
  for (const Stream stream : streams()) {
    if (stream->device == device) stream->pending.clear();
  }
  GlobalMemory::device().forget(device);
  context_of(device).lost = false, ++context_of(device).number;
  ++driver_counters().resets;
}

Stream open_stream() {
  const std::lock_guard guard(lock());
  const Stream stream = *streams().insert(new CUstream_st).first;
  stream->device = current_device(), stream->context = context_of(stream->device).number;
  return stream;
}

void close_stream(Stream stream) {
  if (!stream) return;
  const std::lock_guard guard(lock());
  drain_all();
  streams().erase(stream);
  delete stream;
}

void run_until(Stream stream, uint64_t ticket) {
  const std::lock_guard guard(lock());
  while (stream->done < ticket && !stream->pending.empty()) {
    const std::function<void()> work = std::move(stream->pending.front());
    stream->pending.pop_front();
    ++stream->done;
    try {
      work();
    } catch (...) {  // what came behind a kernel that failed does not run
      stream->done += stream->pending.size();
      stream->pending.clear();
      throw;
    }
  }
}

void drain(Stream stream) {
  if (stream) run_until(stream, stream->submitted);
}

// Called where memory is given back, and so by destructors: what goes wrong is told by the next wait.
void drain_all() noexcept {
  const std::lock_guard guard(lock());
  for (const Stream stream : streams()) {
    if (context_of(stream->device).lost) continue;
    try {
      drain(stream);
    } catch (...) {
      late_error() = std::current_exception();
    }
  }
}

namespace {

void enqueue(Stream stream, std::function<void()> work) {
  const std::lock_guard guard(lock());
  stream->pending.push_back(std::move(work));
  ++stream->submitted;
  const Schedule& schedule = Session::current().schedule;
  if (schedule.completion == Completion::kLate) return;
  if (schedule.completion == Completion::kEarly) return drain(stream);
  // Somewhere between: as far as the seed says.
  const uint64_t mixed = (schedule.seed + stream->submitted) * 0x9E3779B97F4A7C15u >> 33;
  run_until(stream, stream->done + mixed % 4);
}

}  // namespace

void submit(Stream stream, std::function<void()> work) {
  if (!stream) return work();
  use_stream(stream, "launch");
  if (stream->captured) {
    ++driver_counters().captured_launches;
    stream->captured->push_back(std::move(work));
    return;
  }
  ++driver_counters().launches;
  enqueue(stream, std::move(work));
}

void submit_copy(Stream stream, std::function<void()> work) {
  if (!stream) return work();
  use_stream(stream, "copy");
  ++driver_counters().copies;
  if (stream->captured) {
    stream->captured->push_back(std::move(work));
    return;
  }
  enqueue(stream, std::move(work));
}

void submit_wait(Stream stream, Stream other, uint64_t ticket) {
  enqueue(stream, [=] { run_until(other, ticket); });
}

void submit_graph(Stream stream, const CUgraphExec_st& graph) {
  use_stream(stream, "launch");
  enqueue(stream, [&graph] {
    for (const auto& node : graph.nodes) node();
  });
}

}  // namespace qwen3::cuda::emulate
