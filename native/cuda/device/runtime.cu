// runtime.h on the CUDA runtime.

#include "cuda/runtime.h"

#include <cuda.h>

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/ptx/launch.h"

namespace qwen3::cuda {

bool waits_for_dependency(const void* kernel) {
  static std::mutex lock;
  static std::map<std::pair<int, const void*>, bool> known;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard guard(lock);
  const auto [found, added] = known.try_emplace({device, kernel}, false);
  if (added) {
    cudaFuncAttributes attributes{};
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    found->second = attributes.ptxVersion >= 90;  // of what it was compiled from
  }
  return found->second;
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

namespace {
std::string error_text(const char* what, cudaError_t status) {
  return std::string(what) + ": " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")";
}
}  // namespace

int device_count() {
  int n = 0;
  const cudaError_t status = cudaGetDeviceCount(&n);
  if (status == cudaSuccess) return n;
  cudaGetLastError();  // not to be found by the next call
  throw Error(ErrorCode::kUnsupported, "no CUDA device can be used: " + error_text("cudaGetDeviceCount", status),
              "device");
}

DeviceDescription describe_device(int device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  DeviceDescription d;
  d.name = properties.name;
  d.major = properties.major, d.minor = properties.minor;
  d.multiprocessors = properties.multiProcessorCount;
#if defined(QWEN3_HAS_SM90A)
  d.hopper = d.major == 9 && d.minor == 0;
#endif
  d.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  int before = 0;
  check_cuda(cudaGetDevice(&before), "cudaGetDevice");
  size_t free_bytes = 0, total = 0;
  if (cudaSetDevice(device) == cudaSuccess && cudaMemGetInfo(&free_bytes, &total) == cudaSuccess)
    d.free_bytes = static_cast<int64_t>(free_bytes);
  cudaSetDevice(before);
  cudaGetLastError();
  return d;
}

void use_device(int device) {
  check_cuda(cudaSetDevice(device), "cudaSetDevice");
}

Stream create_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}
void destroy_stream(Stream stream) {
  cudaStreamDestroy(stream);
}
void synchronize(Stream stream) {
  check_cuda(cudaStreamSynchronize(stream), "the step on the GPU");
}

std::string device_error(int device) {
  // Without effect, but each may be the one that reports an error that stays.
  size_t free_bytes = 0, total = 0;
  const char* what = "cudaSetDevice";
  cudaError_t status = cudaSetDevice(device);
  if (status == cudaSuccess) what = "cudaFree", status = cudaFree(nullptr);
  if (status == cudaSuccess) what = "cudaMemGetInfo", status = cudaMemGetInfo(&free_bytes, &total);
  if (status == cudaSuccess) return {};
  cudaGetLastError();
  return error_text(what, status);
}
void reset_device(int device) noexcept {
  // All of these may report the very error that is to go. Where CUDA did not switch to the device it has no error of
  // the one that is current, and says which that is: nobody else's is reset.
  cudaSetDevice(device);
  int current = device;
  cudaGetDevice(&current);
  if (current == device) cudaDeviceReset();
  cudaGetLastError();
}

Event create_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return event;
}
void destroy_event(Event event) {
  cudaEventDestroy(event);
}
void record(Event event, Stream stream) {
  check_cuda(cudaEventRecord(event, stream), "cudaEventRecord");
}
void wait(Event event) {
  check_cuda(cudaEventSynchronize(event), "the step on the GPU");
}

void wait_on(Stream stream, Event event) {
  check_cuda(cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
}

void begin_capture(Stream stream) {
  // Other threads may load weights meanwhile: only what this thread does may disturb the capture.
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}
Graph end_capture(Stream stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "cudaGraphInstantiate");
  return executable;
}
void abandon_capture(Stream stream) noexcept {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream, &graph);
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}
void launch_graph(Graph graph, Stream stream) {
  check_cuda(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
}
void destroy_graph(Graph graph) {
  cudaGraphExecDestroy(graph);
}

void* allocate(size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes);
  if (status != cudaSuccess) cudaGetLastError();
  check_cuda(status, ("cudaMalloc of " + std::to_string(bytes) + " bytes").c_str());
  return pointer;
}
void release(void* pointer) {
  cudaFree(pointer);
}
void* allocate_pinned(size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaHostAlloc(&pointer, bytes, cudaHostAllocDefault);
  if (status != cudaSuccess) cudaGetLastError();
  check_cuda(status, ("cudaHostAlloc of " + std::to_string(bytes) + " bytes").c_str());
  return pointer;
}
void release_pinned(void* pointer) {
  cudaFreeHost(pointer);
}

void copy_to_device(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copy to the device");
}
void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copy from the device");
}
void copy_on_device(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy on the device");
}
void fill_bytes(Stream stream, void* to, int byte, size_t bytes) {
  check_cuda(cudaMemsetAsync(to, byte, bytes, stream), "memset on the device");
}

TensorMap encode_tensor_map(const TensorShape& shape) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  // Through the runtime: the library does not link libcuda.
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
             "cuTensorMapEncodeTiled");
  constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                              CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  const cuuint32_t element_strides[3] = {1, 1, 1};
  CUtensorMap map{};
  const CUresult status = reinterpret_cast<Encode>(entry)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(shape.rank), const_cast<void*>(shape.base),
      shape.size, shape.stride, shape.box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
      kSwizzles[static_cast<int>(shape.swizzle)], CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw Error(ErrorCode::kInternal, "cuTensorMapEncodeTiled refused a tensor: error " + std::to_string(status));
  }
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap));
  TensorMap out;
  std::memcpy(&out, &map, sizeof out);
  return out;
}

}  // namespace qwen3::cuda
