#include "node/native_model.h"

#include <optional>
#include <utility>

#include "node/environment.h"
#include "node/errors.h"
#include "node/fields.h"

namespace qwen3::node {
namespace {

class CloseJob : public Job {
 public:
  CloseJob(std::shared_ptr<ModelHandle> model, Napi::Promise::Deferred deferred)
      : model_(std::move(model)), deferred_(deferred) {}

  void run() noexcept override {
    try {
      model_->stop();
    } catch (...) {
      failure_ = describe(std::current_exception());
    }
  }

  void finish(Napi::Env env) override {
    if (failure_) {
      deferred_.Reject(to_js_error(env, *failure_).Value());
    } else {
      deferred_.Resolve(env.Undefined());
    }
  }

 private:
  std::shared_ptr<ModelHandle> model_;
  Napi::Promise::Deferred deferred_;
  std::optional<Failure> failure_;
};

}  // namespace

Napi::Function NativeModel::define(Napi::Env env) {
  return DefineClass(env, "NativeModel",
                     {InstanceMethod("submit", &NativeModel::submit), InstanceMethod("cancel", &NativeModel::cancel),
                      InstanceMethod("endThinking", &NativeModel::end_thinking),
                      InstanceMethod("setThinkingBudget", &NativeModel::set_thinking_budget),
                      InstanceMethod("stats", &NativeModel::stats), InstanceMethod("close", &NativeModel::close)});
}

Napi::Object NativeModel::create(Napi::Env env, std::shared_ptr<ModelHandle> model) {
  // The handle travels as an external, which JavaScript cannot make: `new model.constructor()` fails.
  const auto argument = Napi::External<std::shared_ptr<ModelHandle>>::New(env, &model);
  return Environment::of(env).model_constructor().New({argument});
}

NativeModel::NativeModel(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeModel>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "NativeModel is made by load()");
  }
  model_ = *info[0].As<Napi::External<std::shared_ptr<ModelHandle>>>().Data();
  Environment::of(info.Env()).adopt(model_);
}

void NativeModel::Finalize(Napi::Env env) {
  // A stopped engine means that the environment's cleanup hook has run: its state may be gone already.
  if (model_ && model_->running()) Environment::of(env).dispose(std::move(model_));
}

Engine& NativeModel::engine() const {
  if (!model_) throw Error(ErrorCode::kClosed, "the model is closed");
  return model_->engine();
}

Napi::Value NativeModel::submit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    Environment& environment = Environment::of(env);
    Request request = request_from_js(info[0]);
    const int64_t id = environment.next_request_id();
    engine().submit(id, std::move(request));
    environment.work_started();
    return Napi::Number::New(env, static_cast<double>(id));
  });
}

Napi::Value NativeModel::cancel(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    if (model_) engine().cancel(integer_from_js(info[0], "id"));
    return info.Env().Undefined();
  });
}

Napi::Value NativeModel::end_thinking(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    if (model_) engine().end_thinking(integer_from_js(info[0], "id"));
    return info.Env().Undefined();
  });
}

Napi::Value NativeModel::set_thinking_budget(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    const int64_t tokens = integer_from_js(info[1], "tokens");
    if (model_) engine().set_thinking_budget(integer_from_js(info[0], "id"), tokens);
    return info.Env().Undefined();
  });
}

Napi::Value NativeModel::stats(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value { return stats_to_js(info.Env(), engine().stats()); });
}

Napi::Value NativeModel::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    const auto deferred = Napi::Promise::Deferred::New(env);
    if (!model_) {
      deferred.Resolve(env.Undefined());
    } else {
      Environment::of(env).start(std::make_shared<CloseJob>(model_, deferred));
      model_.reset();
    }
    return deferred.Promise();
  });
}

}  // namespace qwen3::node
