#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "core/status.h"
#include "engine/step_loop.h"

namespace qwen3 {
namespace {

double steady_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Command {
  enum class Kind : uint8_t { kSubmit, kCancel, kEndThinking, kSetBudget } kind = Kind::kSubmit;
  int64_t id = 0;
  int64_t value = 0;  // kSetBudget
  double submitted_ms = 0;
  Request request;  // kSubmit
};

// Callers append commands under the mutex; the engine thread takes them all before each step and never holds the mutex
// while it works.
class ThreadedEngine final : public Engine {
 public:
  ThreadedEngine(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend, const EngineOptions& options,
                 Sink sink)
      : clock_ms_(options.clock_ms ? options.clock_ms : steady_ms),
        vocab_(model->config().vocab),
        context_length_(options.context_length),
        max_waiting_(options.max_waiting),
        loop_(std::move(model), std::move(backend), options, clock_ms_),
        pool_tokens_(loop_.stats().total_blocks * kBlockSize),
        sink_(std::move(sink)),
        stats_(loop_.stats()),
        thread_([this] { run(); }) {}

  ~ThreadedEngine() override {
    {
      const std::lock_guard lock(mutex_);
      closed_ = stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void submit(int64_t id, Request request) override {
    validate_request(request, vocab_, context_length_, pool_tokens_);
    Command command{Command::Kind::kSubmit, id, 0, clock_ms_(), std::move(request)};
    {
      const std::lock_guard lock(mutex_);
      if (closed_) throw Error(ErrorCode::kClosed, "the model was closed; load it again");
      if (stats_.waiting + queued_submits_ >= max_waiting_) {
        throw Error(ErrorCode::kBusy, std::to_string(max_waiting_) + " requests are waiting already; try again later");
      }
      commands_.push_back(std::move(command));
      ++queued_submits_;
    }
    wake_.notify_one();
  }

  void cancel(int64_t id) override { post({Command::Kind::kCancel, id, 0, 0, {}}); }
  void end_thinking(int64_t id) override { post({Command::Kind::kEndThinking, id, 0, 0, {}}); }

  void set_thinking_budget(int64_t id, int64_t tokens) override {
    if (tokens < -1) {
      throw Error(ErrorCode::kInvalidArgument,
                  "the thinking budget must be -1 (unlimited) or more, received " + std::to_string(tokens),
                  "thinkingBudget");
    }
    post({Command::Kind::kSetBudget, id, tokens, 0, {}});
  }

  void close() override {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    wake_.notify_one();
  }

  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats out = stats_;
    out.waiting += queued_submits_;
    return out;
  }

 private:
  void post(Command&& command) {
    {
      const std::lock_guard lock(mutex_);
      commands_.push_back(std::move(command));
    }
    wake_.notify_one();
  }

  void apply(Command& command) {
    switch (command.kind) {
      case Command::Kind::kSubmit:
        return loop_.submit(command.id, std::move(command.request), command.submitted_ms);
      case Command::Kind::kCancel:
        return loop_.cancel(command.id);
      case Command::Kind::kEndThinking:
        return loop_.end_thinking(command.id);
      case Command::Kind::kSetBudget:
        return loop_.set_thinking_budget(command.id, command.value);
    }
  }

  // A failure outside the forward pass is a defect or a lack of memory: `fail` ends the requests that it concerns with
  // it, and the engine goes on.
  template <typename Act, typename Fail>
  static void guarded(Act&& act, Fail&& fail) {
    try {
      act();
    } catch (const std::bad_alloc&) {
      fail(error_code_name(ErrorCode::kOutOfMemory), "memory ran out in the engine");
    } catch (const std::exception& error) {
      fail(error_code_name(ErrorCode::kInternal), error.what());
    }
  }

  void work(bool cancel_all) {
    for (Command& command : taken_) {
      const bool submit = command.kind == Command::Kind::kSubmit;
      guarded([&] { apply(command); },
              [&](const char* code, const char* message) { loop_.fail(command.id, submit, code, message); });
    }
    guarded([&] { cancel_all ? loop_.cancel_all() : loop_.step(); },
            [&](const char* code, const char* message) { loop_.fail_all(code, message); });
  }

  void run() {
    for (bool stop = false; !stop;) {
      bool closed;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || !commands_.empty() || !loop_.idle(); });
        taken_.clear();
        std::swap(taken_, commands_);
        taken_submits_ = queued_submits_;
        closed = closed_;
        stop = stopping_;
      }
      work(closed);
      publish();
    }
  }

  void publish() {
    std::vector<RequestOutput> outputs = loop_.take_outputs();
    EngineStats stats;
    // Without memory for new statistics the old ones stay, but for the counts that callers wait on.
    guarded([&] { stats = loop_.stats(); }, [&](const char*, const char*) { loop_.count_into(stats); });
    {
      const std::lock_guard lock(mutex_);
      std::swap(stats_, stats);
      // Only now do the statistics know them: between taking and publishing nobody may slip past max_waiting.
      queued_submits_ -= std::exchange(taken_submits_, 0);
    }
    if (!outputs.empty()) sink_(std::move(outputs));
  }

  const std::function<double()> clock_ms_;
  const int64_t vocab_, context_length_, max_waiting_;
  StepLoop loop_;  // the engine thread's once it runs
  const int64_t pool_tokens_;
  const Sink sink_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Command> commands_;  // guarded by mutex_, as are the next six
  int64_t queued_submits_ = 0, taken_submits_ = 0;
  bool closed_ = false, stopping_ = false;
  EngineStats stats_;

  std::vector<Command> taken_;
  std::thread thread_;  // last: everything it uses exists when it starts
};

}  // namespace

std::unique_ptr<Engine> Engine::create(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend,
                                       const EngineOptions& options, Sink sink) {
  return std::make_unique<ThreadedEngine>(std::move(model), std::move(backend), options, std::move(sink));
}

}  // namespace qwen3
