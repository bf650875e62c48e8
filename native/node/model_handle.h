#pragma once

#include <memory>
#include <utility>

#include "engine/engine.h"

namespace qwen3::node {

// One loaded model: its engine and the shared weights below it. Stopping joins the engine's thread, which takes up to
// one step, so it happens on a job's thread or in the cleanup hook and never in a call from JavaScript.
class ModelHandle {
 public:
  ModelHandle(std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend, std::unique_ptr<Engine> engine)
      : model_(std::move(model)), backend_(std::move(backend)), engine_(std::move(engine)) {}

  Engine& engine() { return *engine_; }
  bool running() const { return engine_ != nullptr; }

  // Ends every request (kAborted), joins the engine's thread and releases what only this model held. Idempotent; one
  // thread at a time.
  void stop() {
    if (!engine_) return;
    engine_->close();
    engine_.reset();
    model_.reset();
    backend_.reset();
  }

 private:
  std::shared_ptr<const Model> model_;
  std::shared_ptr<Backend> backend_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace qwen3::node
