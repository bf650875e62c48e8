#pragma once

// The driver as the library uses it: devices, memory, copies, streams. device/runtime.cu implements it with the CUDA
// runtime, emulate/runtime.cc with the emulated device. Functions throw Error: kOutOfMemory, kUnsupported, or kInternal
// with CUDA's name of what went wrong.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "core/status.h"
#include "cuda/ptx/types.h"

namespace qwen3::cuda {

// The oldest driver that can run this library, as CUDA counts versions (13000 = 13.0, driver 580).
constexpr int kMinimumDriver = 13000;

struct DeviceDescription {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  bool hopper = false;  // the kernels of sm_90a run here: the chip is a 9.0 and this library has them
  int64_t memory_bytes = 0, free_bytes = 0;
};

int driver_version();  // 0: no driver
int device_count();    // throws Error(kUnsupported, "device") with CUDA's name of the reason when there is none
DeviceDescription describe_device(int device);  // free_bytes 0: CUDA would not say
void use_device(int device);                    // for the calling thread

// Why the device takes no work, with CUDA's name of it; empty: it does. After some errors (an illegal address, say)
// CUDA refuses everything until the device was reset, or for good.
std::string device_error(int device);
// Frees all that this process has there: only for a device without live objects. device_error() tells whether it
// helped.
void reset_device(int device) noexcept;

Stream create_stream();
void destroy_stream(Stream stream);
void synchronize(Stream stream);

// A point of a stream that the host can wait for while work behind it goes on.
using Event = CUevent_st*;
Event create_event();
void destroy_event(Event event);
void record(Event event, Stream stream);
void wait(Event event);
// What is queued on the stream from here on waits, the host does not.
void wait_on(Stream stream, Event event);

// Launches between begin and end are recorded instead of run; launch_graph then runs them all with one call. Nothing
// may be allocated, copied from host memory or waited for meanwhile.
using Graph = CUgraphExec_st*;
void begin_capture(Stream stream);
Graph end_capture(Stream stream);
void abandon_capture(Stream stream) noexcept;  // after a failure between
void launch_graph(Graph graph, Stream stream);
void destroy_graph(Graph graph);

void* allocate(size_t bytes);
void release(void* pointer);
void* allocate_pinned(size_t bytes);  // host memory that copies at full speed
void release_pinned(void* pointer);

// Ordered on the stream. Host memory must stay until the stream is synchronised.
void copy_to_device(Stream stream, void* to, const void* from, size_t bytes);
void copy_to_host(Stream stream, void* to, const void* from, size_t bytes);
void copy_on_device(Stream stream, void* to, const void* from, size_t bytes);
void fill_bytes(Stream stream, void* to, int byte, size_t bytes);

// Owned events and graphs.
template <class Handle, void (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  ~Owned() {
    if (handle_) destroy(handle_);
  }
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Handle get() const { return handle_; }
  void forget() { handle_ = nullptr; }  // after reset_device(): it is gone

 private:
  Handle handle_ = nullptr;
};
using OwnedStream = Owned<Stream, destroy_stream>;
using OwnedEvent = Owned<Event, destroy_event>;
using OwnedGraph = Owned<Graph, destroy_graph>;

// Owned device memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes) : data_(bytes ? allocate(bytes) : nullptr), bytes_(bytes) {}
  ~DeviceBuffer() {
    if (data_) release(data_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  // At least `bytes`, and whether it moved: what was in it is lost then. Nothing on the device may use it any more.
  // Throws Error(kOutOfMemory) and stays as it was.
  bool reserve(size_t bytes) {
    if (bytes <= bytes_) return false;
    *this = DeviceBuffer(bytes + bytes / 2);
    return true;
  }
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Owned pinned memory.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(size_t bytes) : data_(allocate_pinned(bytes)), bytes_(bytes) {}
  ~PinnedBuffer() {
    if (data_) release_pinned(data_);
  }
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  void forget() { data_ = nullptr, bytes_ = 0; }  // after reset_device(): it is gone

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace qwen3::cuda
