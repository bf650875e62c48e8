#include <napi.h>

#include "core/memory.h"
#include "cpu/cpu_info.h"
#include "cuda/client/cuda_backend.h"
#include "node/environment.h"
#include "node/errors.h"
#include "node/native_model.h"

namespace qwen3::node {
namespace {

// Raised with every change of the protocol in lib/native.ts, which refuses another number: a stale build is named
// instead of failing in odd ways.
constexpr int kAbiVersion = 6;

Napi::Value cpu_info_to_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    const CpuInfo cpu = cpu_info();
    const Napi::Array levels = Napi::Array::New(env, cpu.levels.size());
    for (size_t i = 0; i < cpu.levels.size(); ++i) levels.Set(static_cast<uint32_t>(i), cpu.levels[i]);
    Napi::Object object = Napi::Object::New(env);
    object.Set("isa", cpu.isa);
    object.Set("levels", levels);
    object.Set("physicalCores", Napi::Number::New(env, cpu.physical_cores));
    object.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(cpu.memory_bytes)));
    object.Set("availableBytes", Napi::Number::New(env, static_cast<double>(available_memory())));
    return object;
  });
}

// Opens the CUDA library and asks the driver, which may take a second: for the command, not for a server's event loop.
Napi::Value cuda_report_to_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    const CudaReport report = cuda_report();
    const Napi::Array devices = Napi::Array::New(env, report.devices.size());
    for (size_t i = 0; i < report.devices.size(); ++i) {
      const CudaDevice& device = report.devices[i];
      Napi::Object object = Napi::Object::New(env);
      const auto set = [&](const char* name, int64_t value) {
        object.Set(name, Napi::Number::New(env, static_cast<double>(value)));
      };
      set("index", device.index);
      set("computeMajor", device.compute_major);
      set("computeMinor", device.compute_minor);
      set("multiprocessors", device.multiprocessors);
      set("memoryBytes", device.memory_bytes);
      set("freeBytes", device.free_bytes);
      object.Set("name", device.name);
      object.Set("driver", device.driver);
      object.Set("reason", device.reason);
      devices.Set(static_cast<uint32_t>(i), object);
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("library", report.library);
    object.Set("reason", report.reason);
    object.Set("devices", devices);
    return object;
  });
}

Napi::Value set_output_handler(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsFunction()) throw Error(ErrorCode::kInvalidArgument, "handler: expected a function", "handler");
    if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
      throw Error(ErrorCode::kInvalidArgument, "plain: expected an Int32Array", "plain");
    }
    Environment::of(info.Env()).set_output_handler(info[0].As<Napi::Function>(), info[1].As<Napi::Int32Array>());
    return info.Env().Undefined();
  });
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  // Owned by the environment, which deletes it after its cleanup hooks have run.
  auto* environment = new Environment(env);
  env.SetInstanceData<Environment>(environment);
  environment->set_model_constructor(NativeModel::define(env));
  exports.Set("abiVersion", Napi::Number::New(env, kAbiVersion));
  exports.Set("cpuInfo", Napi::Function::New(env, cpu_info_to_js));
  exports.Set("cudaReport", Napi::Function::New(env, cuda_report_to_js));
  exports.Set("setOutputHandler", Napi::Function::New(env, set_output_handler));
  exports.Set("plan", Napi::Function::New(env, start_plan));
  exports.Set("load", Napi::Function::New(env, start_load));
  return exports;
}

}  // namespace

NODE_API_MODULE(qwen3, initialize)

}  // namespace qwen3::node
