#include "node/environment.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "node/convert.h"
#include "node/errors.h"

namespace qwen3::node {

Environment::Environment(Napi::Env env) : env_(env) {
  const Napi::String name = Napi::String::New(env, "qwen3");
  // No JavaScript function is bound: on_wake drains the queue itself. Queue size 0 = unlimited; at most one call waits.
  napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this,
                                                       on_wake, &wake_function_);
  if (status != napi_ok) throw Napi::Error::New(env);
  status = napi_unref_threadsafe_function(env, wake_function_);
  if (status != napi_ok) throw Napi::Error::New(env);
  const napi_threadsafe_function wake_function = wake_function_;
  queue_ = std::make_shared<OutputQueue>([wake_function] {
    return napi_call_threadsafe_function(wake_function, nullptr, napi_tsfn_nonblocking) == napi_ok;
  });
  // Hooks run in reverse order: this one before the thread-safe function's own.
  status = napi_add_env_cleanup_hook(env, on_cleanup, this);
  if (status != napi_ok) throw Napi::Error::New(env);
}

void Environment::work_started() {
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, wake_function_);
}

void Environment::work_ended(int64_t count) {
  if (count == 0) return;
  pending_ -= count;
  if (pending_ == 0) napi_unref_threadsafe_function(env_, wake_function_);
}

void Environment::start(std::shared_ptr<Job> job, bool keeps_alive) {
  job->keeps_alive_ = keeps_alive;
  jobs_.push_back(job);
  // The thread borrows the job; jobs_ keeps it until the thread is joined, so its JavaScript references are always
  // released on the JavaScript thread.
  try {
    job->thread_ = std::thread([raw = job.get(), queue = queue_] {
      raw->run();
      queue->push_finished(raw->shared_from_this());
    });
  } catch (...) {
    jobs_.pop_back();
    throw;
  }
  if (keeps_alive) work_started();
}

void Environment::adopt(const std::shared_ptr<ModelHandle>& model) {
  models_.erase(std::remove_if(models_.begin(), models_.end(), [](const auto& entry) { return entry.expired(); }),
                models_.end());
  models_.push_back(model);
}

namespace {

class DisposeJob : public Job {
 public:
  explicit DisposeJob(std::shared_ptr<ModelHandle> model) : model_(std::move(model)) {}
  void run() noexcept override { model_->stop(); }
  void finish(Napi::Env) override {}

 private:
  std::shared_ptr<ModelHandle> model_;
};

}  // namespace

void Environment::dispose(std::shared_ptr<ModelHandle> model) {
  try {
    start(std::make_shared<DisposeJob>(model), false);
  } catch (const std::exception&) {  // no thread to be had: rather wait for one step here than leak
    model->stop();
  }
}

void Environment::on_wake(napi_env env, napi_value, void* context, void*) {
  // A null env: the function is being torn down with calls in its queue.
  if (env == nullptr) return;
  const Napi::Env napi(env);
  Environment& self = *static_cast<Environment*>(context);
  try {
    if (!self.closed_) self.deliver(napi);
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
  } catch (...) {
    to_js_error(napi, describe(std::current_exception())).ThrowAsJavaScriptException();
  }
}

void Environment::deliver(Napi::Env env) {
  OutputQueue::Batch batch = queue_->drain();
  // One receiver that throws does not keep the others from being served.
  std::optional<Napi::Error> thrown;
  const auto guarded = [&](auto&& body) {
    try {
      const Napi::HandleScope scope(env);
      body();
    } catch (const Napi::Error& error) {
      thrown.emplace(error);
    }
  };
  // Outputs go first: a model's close() resolves after its last request has ended.
  guarded([&] { deliver_outputs(env, batch.outputs); });
  for (const auto& job : batch.progress) guarded([&] { job->progress(env); });
  for (const auto& job : batch.finished) {
    end_job(job);
    guarded([&] { job->finish(env); });
  }
  if (thrown) throw *thrown;
}

void Environment::deliver_outputs(Napi::Env env, std::vector<RequestOutput>& outputs) {
  if (outputs.empty()) return;
  const auto ended = std::count_if(outputs.begin(), outputs.end(), [](const auto& output) { return output.finished; });
  work_ended(ended);
  if (output_handler_.IsEmpty()) return;
  Napi::Int32Array plain = plain_outputs_.Value();
  int32_t* const values = plain.Data();
  const size_t room = plain.ElementLength();
  size_t used = 0;
  uint32_t n_objects = 0;
  Napi::Value objects = env.Undefined();
  for (const RequestOutput& output : outputs) {
    if (const size_t written = write_plain(output, values + used, room - used)) {
      used += written;
      continue;
    }
    if (n_objects == 0) objects = Napi::Array::New(env);
    objects.As<Napi::Array>().Set(n_objects++, output_to_js(env, output));
  }
  output_handler_.Call({Napi::Number::New(env, static_cast<double>(used)), objects});
}

void Environment::end_job(const std::shared_ptr<Job>& job) {
  job->thread_.join();  // it has nothing left to do
  jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
  if (job->keeps_alive_) work_ended();
}

void Environment::on_cleanup(void* self) {
  static_cast<Environment*>(self)->shut_down();
}

void Environment::shut_down() {
  closed_ = true;
  queue_->close();
  for (const auto& job : jobs_) job->cancel();
  for (const auto& job : jobs_) job->thread_.join();
  // After the joins nothing else stops a model: a close() that was under way has ended.
  jobs_.clear();
  for (const auto& entry : models_) {
    if (const auto model = entry.lock()) model->stop();
  }
  models_.clear();
  output_handler_.Reset();
  plain_outputs_.Reset();
  model_constructor_.Reset();
  napi_release_threadsafe_function(wake_function_, napi_tsfn_abort);
}

}  // namespace qwen3::node
