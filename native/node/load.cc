#include <optional>
#include <utility>

#include "engine/runtime.h"
#include "node/device_choice.h"
#include "node/environment.h"
#include "node/errors.h"
#include "node/native_model.h"

namespace qwen3::node {
namespace {

// Reads, packs and starts a model.
class LoadJob : public Job {
 public:
  LoadJob(LoadSpec spec, Napi::Function on_progress, Napi::Promise::Deferred deferred,
          std::shared_ptr<OutputQueue> queue)
      : spec_(std::move(spec)),
        on_progress_(Napi::Persistent(on_progress)),
        deferred_(deferred),
        queue_(std::move(queue)) {}

  void run() noexcept override {
    try {
      load();
    } catch (...) {
      failure_ = describe(std::current_exception());
    }
  }

  void progress(Napi::Env env) override {
    on_progress_.Call({Napi::Number::New(env, static_cast<double>(done_bytes_.load(std::memory_order_relaxed))),
                       Napi::Number::New(env, static_cast<double>(total_bytes_.load(std::memory_order_relaxed)))});
  }

  void finish(Napi::Env env) override {
    if (!failure_ && cancelled_.load(std::memory_order_relaxed)) {
      failure_ = Failure{error_code_name(ErrorCode::kAborted), "the load was cancelled", ""};
      Environment::of(env).dispose(std::move(model_));
    }
    if (failure_) {
      deferred_.Reject(to_js_error(env, *failure_).Value());
    } else {
      Napi::Object result = Napi::Object::New(env);
      result.Set("model", NativeModel::create(env, std::move(model_)));
      result.Set("weightCache", weight_cache_to_js(env, cache_use_));
      deferred_.Resolve(result);
    }
  }

 private:
  void load() {
    if (!spec_.source.random) spec_.source.tensors = unpack(spec_.tensors);
    Runtime& runtime = Runtime::get();
    const std::shared_ptr<Backend> backend = runtime.backend(spec_.device, spec_.threads, spec_.isa, spec_.invariance);
    LoadProgress progress;
    progress.cancelled = &cancelled_;
    progress.report = [this](int64_t done_bytes, int64_t total_bytes) {
      done_bytes_.store(done_bytes, std::memory_order_relaxed);
      total_bytes_.store(total_bytes, std::memory_order_relaxed);
      queue_->push_progress(shared_from_this());
    };
    std::shared_ptr<const Model> model =
        runtime.load(spec_.key, spec_.config, spec_.source, backend, spec_.formats, progress, spec_.cache);
    cache_use_ = model->cache_use();
    std::unique_ptr<Engine> engine =
        Engine::create(model, backend, spec_.engine,
                       [queue = queue_](std::vector<RequestOutput>&& outputs) { queue->push(std::move(outputs)); });
    model_ = std::make_shared<ModelHandle>(std::move(model), backend, std::move(engine));
  }

  LoadSpec spec_;
  Napi::FunctionReference on_progress_;
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<OutputQueue> queue_;
  std::atomic<int64_t> done_bytes_{0}, total_bytes_{0};
  std::optional<Failure> failure_;
  std::shared_ptr<ModelHandle> model_;
  WeightCacheUse cache_use_;
};

// The device that a load would take, and its sizes there. Recording the forward pass of a large mixture of experts
// takes milliseconds, hence a job.
class PlanJob : public Job {
 public:
  PlanJob(LoadSpec spec, Napi::Promise::Deferred deferred) : spec_(std::move(spec)), deferred_(deferred) {}

  void run() noexcept override {
    try {
      spec_.config.validate();
      spec_.device = choose_device(spec_);
      const std::shared_ptr<Backend> backend =
          Runtime::get().backend(spec_.device, spec_.threads, spec_.isa, spec_.invariance);
      held_ = Runtime::get().holds(spec_.key, backend, spec_.formats);
      weight_bytes_ = Model::weight_bytes(spec_.config, *backend, spec_.formats);
      const auto program = record_forward(spec_.config, spec_.engine.yarn, spec_.formats);
      available_bytes_ = backend->available_memory();
      block_bytes_ = backend->kv_block_bytes(*program, spec_.engine.kv_dtype);
    } catch (...) {
      failure_ = describe(std::current_exception());
    }
  }

  void finish(Napi::Env env) override {
    if (failure_) {
      deferred_.Reject(to_js_error(env, *failure_).Value());
      return;
    }
    Napi::Object sizes = Napi::Object::New(env);
    sizes.Set("weightBytes", Napi::Number::New(env, static_cast<double>(weight_bytes_)));
    sizes.Set("blockBytes", Napi::Number::New(env, static_cast<double>(block_bytes_)));
    sizes.Set("availableBytes", Napi::Number::New(env, static_cast<double>(available_bytes_)));
    sizes.Set("held", Napi::Boolean::New(env, held_));
    sizes.Set("device", spec_.device);
    deferred_.Resolve(sizes);
  }

 private:
  LoadSpec spec_;
  Napi::Promise::Deferred deferred_;
  std::optional<Failure> failure_;
  int64_t weight_bytes_ = 0, block_bytes_ = 0, available_bytes_ = 0;
  bool held_ = false;
};

}  // namespace

Napi::Value start_load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    LoadSpec spec = load_spec_from_js(info[0]);
    if (!info[1].IsFunction())
      throw Error(ErrorCode::kInvalidArgument, "onProgress: expected a function", "onProgress");
    const auto deferred = Napi::Promise::Deferred::New(env);
    Environment& environment = Environment::of(env);
    auto job = std::make_shared<LoadJob>(std::move(spec), info[1].As<Napi::Function>(), deferred, environment.queue());
    environment.start(job);
    Napi::Object result = Napi::Object::New(env);
    result.Set("promise", deferred.Promise());
    result.Set("abort", Napi::Function::New(env, [weak = std::weak_ptr<Job>(job)](const Napi::CallbackInfo&) {
                 if (const auto running = weak.lock()) running->cancel();
               }));
    return result;
  });
}

Napi::Value start_plan(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    const auto deferred = Napi::Promise::Deferred::New(env);
    Environment::of(env).start(std::make_shared<PlanJob>(load_spec_from_js(info[0]), deferred));
    return deferred.Promise();
  });
}

}  // namespace qwen3::node
