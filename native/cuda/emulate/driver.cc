#include "cuda/emulate/driver.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <utility>

#include "core/status.h"
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
  bool armed = false, sticky = false;
};
PlantedError& planted() {
  static PlantedError f;
  return f;
}
bool broken = false;
std::exception_ptr& late_error() {
  static std::exception_ptr error;
  return error;
}

[[noreturn]] void fail(const std::string& what, const char* error, const char* words) {
  const bool memory = std::strcmp(error, "cudaErrorMemoryAllocation") == 0;
  throw Error(memory ? ErrorCode::kOutOfMemory : ErrorCode::kInternal, what + ": " + error + " (" + words + ")");
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
  f.armed = true;
}

}  // namespace

DriverCounters& driver_counters() {
  static DriverCounters counters;
  return counters;
}

void maybe_fail(const char* where) {
  const std::lock_guard guard(lock());
  if (broken) fail(where, "cudaErrorIllegalAddress", "an illegal memory access was encountered");
  if (late_error() && std::strcmp(where, "wait") == 0) std::rethrow_exception(std::exchange(late_error(), nullptr));
  arm();
  PlantedError& f = planted();
  if (!f.armed || f.where != where || f.left-- > 0) return;
  f.armed = false;
  if (f.sticky) {
    broken = true;
    fail(where, "cudaErrorIllegalAddress", "an illegal memory access was encountered");
  }
  if (f.where == "allocate") fail("cudaMalloc", "cudaErrorMemoryAllocation", "out of memory");
  fail(where, "cudaErrorLaunchOutOfResources", "too many resources requested for launch");
}

bool device_is_broken() {
  const std::lock_guard guard(lock());
  return broken;
}

void reset_device() {
  const std::lock_guard guard(lock());
  for (const Stream stream : streams()) stream->pending.clear();
  broken = false;
}

Stream open_stream() {
  const std::lock_guard guard(lock());
  return *streams().insert(new CUstream_st).first;
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
  if (broken) return;
  for (const Stream stream : streams()) {
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
  maybe_fail("launch");
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
  maybe_fail("copy");
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
  maybe_fail("launch");
  enqueue(stream, [&graph] {
    for (const auto& node : graph.nodes) node();
  });
}

}  // namespace qwen3::cuda::emulate
