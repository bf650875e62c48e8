#pragma once

#include <napi.h>

#include <memory>

#include "node/convert.h"
#include "node/model_handle.h"

namespace qwen3::node {

// `NativeModel` of lib/native.ts: translates calls for one engine.
class NativeModel : public Napi::ObjectWrap<NativeModel> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object create(Napi::Env env, std::shared_ptr<ModelHandle> model);

  explicit NativeModel(const Napi::CallbackInfo& info);
  // Runs when JavaScript has lost the object: stops the engine in the background if close() was not called.
  void Finalize(Napi::Env env) override;

 private:
  Napi::Value submit(const Napi::CallbackInfo& info);
  Napi::Value cancel(const Napi::CallbackInfo& info);
  Napi::Value end_thinking(const Napi::CallbackInfo& info);
  Napi::Value set_thinking_budget(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  // Throws Error(kClosed) after close().
  Engine& engine() const;

  std::shared_ptr<ModelHandle> model_;  // null after close()
};

// The `load` and `plan` exports: both start a job.
Napi::Value start_load(const Napi::CallbackInfo& info);
Napi::Value start_plan(const Napi::CallbackInfo& info);

}  // namespace qwen3::node
