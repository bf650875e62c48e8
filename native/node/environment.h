#pragma once

#include <napi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "node/model_handle.h"
#include "node/output_queue.h"

namespace qwen3::node {

// Work that may take longer than a millisecond: loading, measuring, closing. It has a thread of its own and never uses
// libuv's pool, which file system calls of the user share (UV_THREADPOOL_SIZE may be 1).
class Job : public std::enable_shared_from_this<Job> {
 public:
  virtual ~Job() = default;
  virtual void run() noexcept = 0;                     // on the job's thread
  virtual void finish(Napi::Env env) = 0;              // on the JavaScript thread, after run()
  virtual void progress(Napi::Env env) { (void)env; }  // on the JavaScript thread, after push_progress()
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 protected:
  std::atomic<bool> cancelled_{false};

 private:
  friend class Environment;
  std::thread thread_;
  bool keeps_alive_ = true;
};

// The addon's state in one Node environment (the main thread or a worker). All methods run on its JavaScript thread.
//
// Its end: when an environment is torn down, the cleanup hook cancels everything, joins every thread that this
// environment started and aborts the thread-safe function before it returns. process.exit() runs no hook; nothing here
// or in the engine is destroyed then, because nothing has static storage with a destructor.
class Environment {
 public:
  explicit Environment(Napi::Env env);
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() = default;

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  const std::shared_ptr<OutputQueue>& queue() const { return queue_; }
  // `plain` is memory that carries most outputs across: see deliver_outputs.
  void set_output_handler(Napi::Function handler, Napi::Int32Array plain) {
    output_handler_ = Napi::Persistent(handler);
    plain_outputs_ = Napi::Persistent(plain);
  }
  void set_model_constructor(Napi::Function constructor) { model_constructor_ = Napi::Persistent(constructor); }
  const Napi::FunctionReference& model_constructor() const { return model_constructor_; }

  // Ids are unique in the environment, so that one handler can serve every model.
  int64_t next_request_id() { return ++last_request_id_; }

  // While work is pending the event loop stays alive; an idle model does not hold it.
  void work_started();
  void work_ended(int64_t count = 1);

  // Starts job->run() on a new thread; job->finish() follows on the JavaScript thread unless the environment ends
  // first.
  void start(std::shared_ptr<Job> job, bool keeps_alive = true);

  // Models are known here so that the cleanup hook can stop their engines.
  void adopt(const std::shared_ptr<ModelHandle>& model);
  // Stops the model's engine on a thread of its own, without holding the event loop: for models dropped without
  // close().
  void dispose(std::shared_ptr<ModelHandle> model);

 private:
  static void on_wake(napi_env env, napi_value callback, void* context, void* data);
  static void on_cleanup(void* self);
  void deliver(Napi::Env env);
  // Calls the handler with what is in the shared array, and the outputs that did not go there as objects. Tokens alone
  // go into the array, so that a token costs no object: [id (low and high 32 bits), n, n ids, n tags] for each output.
  void deliver_outputs(Napi::Env env, std::vector<RequestOutput>& outputs);
  void end_job(const std::shared_ptr<Job>& job);
  void shut_down();

  napi_env env_;
  napi_threadsafe_function wake_function_ = nullptr;
  std::shared_ptr<OutputQueue> queue_;
  Napi::FunctionReference output_handler_;
  Napi::Reference<Napi::Int32Array> plain_outputs_;
  Napi::FunctionReference model_constructor_;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::vector<std::weak_ptr<ModelHandle>> models_;
  int64_t last_request_id_ = 0;
  int64_t pending_ = 0;
  bool closed_ = false;
};

}  // namespace qwen3::node
