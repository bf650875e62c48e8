#include <napi.h>

#include "core/memory.h"
#include "cpu/cpu_info.h"
#include "node/environment.h"
#include "node/errors.h"
#include "node/native_model.h"

namespace qwen3::node {
namespace {

// Raised with every change of the protocol in lib/native.ts, which refuses another number: a stale build is named
// instead of failing in odd ways.
constexpr int kAbiVersion = 4;

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

Napi::Value set_output_handler(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsFunction()) throw Error(ErrorCode::kInvalidArgument, "handler: expected a function", "handler");
    Environment::of(info.Env()).set_output_handler(info[0].As<Napi::Function>());
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
  exports.Set("setOutputHandler", Napi::Function::New(env, set_output_handler));
  exports.Set("plan", Napi::Function::New(env, start_plan));
  exports.Set("load", Napi::Function::New(env, start_load));
  return exports;
}

}  // namespace

NODE_API_MODULE(qwen3, initialize)

}  // namespace qwen3::node
