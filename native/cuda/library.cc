// The table of libqwen3_cuda.so: translation between plain structs and the classes behind them. No exception leaves it.

#include "cuda/library.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <new>

#include "core/dtype.h"
#include "cuda/executable.h"

#ifndef QWEN3_VERSION
#define QWEN3_VERSION "unknown"
#endif

using namespace qwen3;
using namespace qwen3::cuda;

namespace {

// Some errors (an illegal address) end a device's context: everything of this process there is lost, and only a reset,
// without anything alive on it, can bring the device back. So what is alive is counted, and resets too: handles of an
// earlier context must not be given back.
constexpr int32_t kMostDevices = 64;
struct DeviceState {
  std::mutex lock;  // held, for a moment, by whoever asks whether the device works, resets it, or adds to what is alive
  std::atomic<int64_t> alive{0}, resets{0};
};
DeviceState g_devices[kMostDevices];

// Why nothing can be made on a device; empty: it works, after a reset perhaps. Under the device's lock.
std::string why_stopped(int32_t index) {
  DeviceState& device = g_devices[index];
  std::string error = device_error(index);
  if (error.empty()) return {};
  const std::string name = "CUDA device " + std::to_string(index);
  if (device.alive > 0)
    return name + " stopped after an error (" + error + "); close every model that uses it, then load again";
  reset_device(index);
  ++device.resets;
  error = device_error(index);
  return error.empty() ? "" : name + " does not work: " + error + "; after an error CUDA may ask for a new process";
}

int32_t count_devices() {
  static std::atomic<int32_t> known{0};
  try {
    return known = std::min(device_count(), kMostDevices);
  } catch (const Error&) {
    // It may be the error of a lost device, which is to be described like the others.
    for (int32_t i = 0; i < known; ++i) {
      const std::lock_guard lock(g_devices[i].lock);
      if (!device_error(i).empty()) return known;
    }
    return known = std::min(device_count(), kMostDevices);  // or of one that somebody has just reset
  }
}

// Something alive on a device. The device is the calling thread's then.
class OnDevice {
 public:
  explicit OnDevice(int32_t index) : index_(index) {
    const std::lock_guard lock(g_devices[index].lock);
    // Asked for the first of a model's weights, not for thousands: with one alive nothing could be done about it.
    const std::string reason = g_devices[index].alive == 0 ? why_stopped(index) : "";
    if (!reason.empty()) throw Error(ErrorCode::kInternal, reason, "device");
    use_device(index);
    ++g_devices[index].alive;
  }
  ~OnDevice() { --g_devices[index_].alive; }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  int32_t index() const { return index_; }

 private:
  int32_t index_;
};

}  // namespace

struct qwen3_cuda_backend {
  int32_t device;
  bool full_invariance;
  int64_t resets;      // of the device that the loader has seen
  std::mutex loading;  // whatever is made through the backend is made under it
  Loader loader;       // of weights and tables; steps run on their cache's stream
  qwen3_cuda_backend(int32_t index, bool full)
      : device(index), full_invariance(full), resets(g_devices[index].resets), loader(index) {}
};
struct qwen3_cuda_weight {
  explicit qwen3_cuda_weight(int32_t device) : on(device) {}
  OnDevice on;
  std::unique_ptr<DeviceWeight> weight;
};
struct qwen3_cuda_cache {
  explicit qwen3_cuda_cache(int32_t device) : on(device) {}
  OnDevice on;
  std::unique_ptr<DeviceCache> cache;
};
struct qwen3_cuda_executable {
  explicit qwen3_cuda_executable(int32_t device) : on(device) {}
  OnDevice on;
  std::unique_ptr<DeviceExecutable> executable;
};

namespace {

void copy_text(char* to, size_t size, const std::string& text) {
  const size_t n = std::min(size - 1, text.size());
  std::memcpy(to, text.data(), n);
  to[n] = 0;
}

void report(qwen3_cuda_error* error, ErrorCode code, const std::string& message, const std::string& subject) {
  if (!error) return;
  error->code = static_cast<int32_t>(code);
  copy_text(error->message, sizeof error->message, message);
  copy_text(error->subject, sizeof error->subject, subject);
}

// Runs `body`; a failure is reported and `failed` returned.
template <class Result, class Body>
Result guarded(qwen3_cuda_error* error, Result failed, Body body) {
  try {
    return body();
  } catch (const Error& e) {
    report(error, e.code(), e.what(), e.subject());
  } catch (const std::bad_alloc&) {
    report(error, ErrorCode::kOutOfMemory, "out of host memory", {});
  } catch (const std::exception& e) {
    report(error, ErrorCode::kInternal, e.what(), {});
  }
  return failed;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

void require_driver() {
  const int version = driver_version();
  if (version == 0) {
    throw Error(ErrorCode::kUnsupported, "no NVIDIA driver is installed, or this process may not use it", "device");
  }
  if (version < kMinimumDriver) {
    throw Error(ErrorCode::kUnsupported,
                "the NVIDIA driver supports CUDA " + version_text(version) + ", this version of qwen3 needs " +
                    version_text(kMinimumDriver) + " (driver 580 or newer)",
                "device");
  }
}

std::string why_unusable(const DeviceDescription& d) {
  if (d.major >= 8) return {};
  return d.name + " has compute capability " + std::to_string(d.major) + "." + std::to_string(d.minor) +
         "; the kernels need 8.0 (Ampere) or newer";
}

// One that CUDA does not let us use has a reason and, where CUDA says nothing more, no description.
qwen3_cuda_device describe(int32_t index) {
  qwen3_cuda_device to{};
  to.index = index;
  to.driver_version = driver_version(), to.minimum_driver_version = kMinimumDriver;
  copy_text(to.name, sizeof to.name, "CUDA device " + std::to_string(index));
  const std::lock_guard lock(g_devices[index].lock);
  std::string reason = why_stopped(index);
  try {
    const DeviceDescription d = describe_device(index);
    to.compute_major = d.major, to.compute_minor = d.minor, to.multiprocessors = d.multiprocessors;
    to.memory_bytes = d.memory_bytes, to.free_bytes = d.free_bytes;
    copy_text(to.name, sizeof to.name, d.name);
    if (reason.empty()) reason = why_unusable(d);
  } catch (const Error& error) {
    if (reason.empty()) reason = error.what();
  }
  copy_text(to.reason, sizeof to.reason, reason);
  to.usable = reason.empty() ? 1 : 0;
  return to;
}

int32_t devices(qwen3_cuda_device* out, int32_t capacity, qwen3_cuda_error* error) {
  return guarded(error, int32_t{-1}, [&] {
    require_driver();
    const int32_t n = count_devices();
    for (int32_t i = 0; i < std::min(n, capacity); ++i) out[i] = describe(i);
    return n;
  });
}

qwen3_cuda_backend* create_backend(int32_t device, int32_t full_invariance, qwen3_cuda_error* error) {
  return guarded(error, static_cast<qwen3_cuda_backend*>(nullptr), [&] {
    require_driver();
    const int32_t n = count_devices();
    if (device < 0 || device >= n) {
      throw Error(ErrorCode::kUnsupported,
                  "there is no CUDA device " + std::to_string(device) + "; this machine has " + std::to_string(n),
                  "device");
    }
    const OnDevice on(device);
    const std::string reason = why_unusable(describe_device(device));
    if (!reason.empty()) throw Error(ErrorCode::kUnsupported, reason, "device");
    return new qwen3_cuda_backend(device, full_invariance != 0);
  });
}

// What the loader holds of an earlier context is gone.
void abandon_lost(qwen3_cuda_backend* backend) {
  const int64_t resets = g_devices[backend->device].resets;
  if (backend->resets == resets) return;
  backend->loader.abandon();
  backend->resets = resets;
}

void destroy_backend(qwen3_cuda_backend* backend) {
  if (!backend) return;
  DeviceState& device = g_devices[backend->device];
  const std::lock_guard lock(device.lock);  // no reset meanwhile
  abandon_lost(backend);
  guarded(nullptr, 0, [&] {
    use_device(backend->device);
    return 0;
  });
  delete backend;
}

int64_t packed_size(int32_t use, int32_t format, int64_t rows, int64_t cols, qwen3_cuda_error* error) {
  return guarded(error, int64_t{-1}, [&] {
    return packed_bytes(static_cast<WeightUse>(use), static_cast<WeightFormat>(format), rows, cols);
  });
}

qwen3_cuda_weight* pack(qwen3_cuda_backend* backend, int32_t use, int32_t format, const qwen3_cuda_source* sources,
                        int32_t n_sources, qwen3_cuda_error* error) {
  return guarded(error, static_cast<qwen3_cuda_weight*>(nullptr), [&] {
    const std::lock_guard lock(backend->loading);
    auto weight = std::make_unique<qwen3_cuda_weight>(backend->device);
    abandon_lost(backend);
    weight->weight = pack_weight(backend->loader, static_cast<WeightUse>(use), static_cast<WeightFormat>(format),
                                 {sources, static_cast<size_t>(n_sources)});
    return weight.release();
  });
}

template <class Handle>
void destroy_on_device(Handle* handle) {
  if (!handle) return;
  guarded(nullptr, 0, [&] {
    use_device(handle->on.index());
    return 0;
  });
  delete handle;
}
void destroy_weight(qwen3_cuda_weight* weight) {
  destroy_on_device(weight);
}

int64_t kv_block_bytes(const qwen3_cuda_program* program, int32_t dtype, qwen3_cuda_error* error) {
  return guarded(error, int64_t{-1}, [&] {
    if (static_cast<DType>(dtype) != DType::kBF16) {
      throw Error(ErrorCode::kUnsupported, "on CUDA the KV cache is bf16; load the model with kvCache 'bf16'",
                  "kvCache");
    }
    check_supported(*program);  // sizes are asked for first, before any weight is read
    return DeviceCache::block_bytes(*program);
  });
}

qwen3_cuda_cache* create_cache(qwen3_cuda_backend* backend, const qwen3_cuda_program* program, int32_t dtype,
                               int64_t n_blocks, qwen3_cuda_error* error) {
  if (kv_block_bytes(program, dtype, error) < 0) return nullptr;
  return guarded(error, static_cast<qwen3_cuda_cache*>(nullptr), [&] {
    const std::lock_guard lock(backend->loading);
    auto cache = std::make_unique<qwen3_cuda_cache>(backend->device);
    cache->cache = std::make_unique<DeviceCache>(*program, n_blocks);
    return cache.release();
  });
}

void destroy_cache(qwen3_cuda_cache* cache) {
  destroy_on_device(cache);
}

// On the cache's stream, like the steps.
template <class Body>
int32_t between_steps(qwen3_cuda_cache* cache, qwen3_cuda_error* error, Body body) {
  return guarded(error, int32_t{1}, [&] {
    use_device(cache->on.index());
    body(*cache->cache);
    return 0;
  });
}
int32_t copy_block(qwen3_cuda_cache* cache, int32_t from, int32_t to, int32_t n_positions, qwen3_cuda_error* error) {
  return between_steps(cache, error, [&](DeviceCache& c) { c.copy_block(from, to, n_positions); });
}
int32_t poison_block(qwen3_cuda_cache* cache, int32_t block, qwen3_cuda_error* error) {
  return between_steps(cache, error, [&](DeviceCache& c) { c.poison_block(block); });
}

qwen3_cuda_executable* compile(qwen3_cuda_backend* backend, const qwen3_cuda_program* program,
                               const qwen3_cuda_weight* const* weights, int32_t n_weights, int64_t max_rows,
                               int64_t max_positions, qwen3_cuda_error* error) {
  return guarded(error, static_cast<qwen3_cuda_executable*>(nullptr), [&] {
    const std::lock_guard lock(backend->loading);
    auto executable = std::make_unique<qwen3_cuda_executable>(backend->device);
    abandon_lost(backend);
    std::vector<const DeviceWeight*> all;
    for (int32_t i = 0; i < n_weights; ++i) all.push_back(weights[i]->weight.get());
    backend->loader.finish();  // the weights' copies
    executable->executable =
        std::make_unique<DeviceExecutable>(backend->loader.stream(), describe_device(backend->device), *program,
                                           std::move(all), max_rows, max_positions, backend->full_invariance);
    return executable.release();
  });
}

void destroy_executable(qwen3_cuda_executable* executable) {
  destroy_on_device(executable);
}

// A call on an executable. An error that the device did not survive says so.
template <class Body>
int32_t on_executable(qwen3_cuda_executable* executable, qwen3_cuda_error* error, Body body) {
  return guarded(error, int32_t{1}, [&] {
    try {
      use_device(executable->on.index());
      body(*executable->executable);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kInternal || device_error(executable->on.index()).empty()) throw;
      throw Error(e.code(), std::string(e.what()) + "; close every model on this device, then load again", e.subject());
    }
    return 0;
  });
}

int32_t prepare(qwen3_cuda_executable* executable, qwen3_cuda_cache* cache, int64_t decode_rows,
                qwen3_cuda_error* error) {
  return on_executable(executable, error, [&](DeviceExecutable& e) { e.prepare(*cache->cache, decode_rows); });
}

int32_t enqueue(qwen3_cuda_executable* executable, const qwen3_cuda_batch* batch, const qwen3_cuda_sampling* sampling,
                qwen3_cuda_cache* cache, qwen3_cuda_error* error) {
  return on_executable(executable, error, [&](DeviceExecutable& e) { e.enqueue(*batch, sampling, *cache->cache); });
}

int32_t collect(qwen3_cuda_executable* executable, int32_t* tokens, qwen3_cuda_logprobs* logprobs, int32_t n,
                qwen3_cuda_error* error) {
  return on_executable(executable, error, [&](DeviceExecutable& e) { e.collect(tokens, logprobs, n); });
}

int32_t gives_logprobs(const qwen3_cuda_executable* executable, const qwen3_cuda_sampling* row) {
  return executable->executable->gives_logprobs(*row) ? 1 : 0;
}

int32_t run(qwen3_cuda_executable* executable, const qwen3_cuda_batch* batch, qwen3_cuda_cache* cache, float* logits,
            qwen3_cuda_error* error) {
  return on_executable(executable, error, [&](DeviceExecutable& e) { e.run(*batch, *cache->cache, logits); });
}

void observe(qwen3_cuda_executable* executable, qwen3_cuda_observer observer, void* context) {
  executable->executable->observe(observer, context);
}

int32_t expert_counts(qwen3_cuda_executable* executable, int64_t* out, qwen3_cuda_error* error) {
  return on_executable(executable, error, [&](DeviceExecutable& e) { e.expert_counts(out); });
}

const qwen3_cuda_table kTable = {
    QWEN3_CUDA_ABI_VERSION,
    static_cast<int32_t>(sizeof(qwen3_cuda_table)),
    QWEN3_VERSION,
    devices,
    create_backend,
    destroy_backend,
    packed_size,
    pack,
    destroy_weight,
    kv_block_bytes,
    create_cache,
    destroy_cache,
    copy_block,
    poison_block,
    compile,
    destroy_executable,
    prepare,
    enqueue,
    collect,
    gives_logprobs,
    run,
    observe,
    expert_counts,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const qwen3_cuda_table* qwen3_cuda_library(int32_t abi_version) {
  return abi_version == QWEN3_CUDA_ABI_VERSION || abi_version == 0 ? &kTable : nullptr;
}
