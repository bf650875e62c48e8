// The process's runtime: one backend a device, one copy of the weights a key, whoever loads them and however often;
// loads of one key at a time wait for each other and survive each other's failure.

#include <thread>

#include "engine/runtime.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

WeightsSource random_source() {
  WeightsSource source;
  source.random = true;
  source.seed = 3;
  return source;
}

std::shared_ptr<const Model> load(const std::string& key, const LoadProgress& progress = {},
                                  WeightFormat format = WeightFormat::kF32) {
  Runtime& runtime = Runtime::get();
  return runtime.load(key, tiny_config(), random_source(), runtime.backend("reference", 0), format, progress);
}

void backends() {
  Runtime& runtime = Runtime::get();
  CHECK(&runtime == &Runtime::get());
  CHECK(runtime.backend("reference", 0) == runtime.backend("reference", 0));
  CHECK(runtime.backend("auto", 1) == runtime.backend("cpu", 1));
  CHECK(runtime.backend("cpu", 2) != runtime.backend("cpu", 1));
  CHECK_THROWS_SUBJECT(runtime.backend("cuda", 0), ErrorCode::kUnsupported, "device");
  CHECK_THROWS_SUBJECT(runtime.backend("cuda:1", 0), ErrorCode::kUnsupported, "device");
  CHECK_THROWS_SUBJECT(runtime.backend("tpu", 0), ErrorCode::kUnsupported, "device");
  CHECK_THROWS_SUBJECT(runtime.backend("cpu", -1), ErrorCode::kInvalidArgument, "threads");
}

void shares_while_used() {
  std::shared_ptr<const Model> first = load("a");
  CHECK(load("a") == first);
  CHECK(load("b") != first);
  CHECK(load("a", {}, WeightFormat::kBF16) != first);
  const std::weak_ptr<const Model> watch = first;
  first.reset();
  CHECK(watch.expired());  // the registry keeps nothing alive
  CHECK(load("a") != nullptr);
}

// Many threads, one load: progress is seen by all, one model comes out.
void concurrent_loads() {
  std::atomic<int> reports = 0;
  std::vector<std::shared_ptr<const Model>> models(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < models.size(); ++i) {
    threads.emplace_back([&, i] {
      LoadProgress progress;
      progress.report = [&](int64_t done, int64_t total) {
        ++reports;
        if (done > total || done < 0) reports = -1000000;
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
      };
      models[i] = load("together", progress);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& model : models) CHECK(model && model == models[0]);
  CHECK(reports > 0);
}

// The first loader is cancelled while others wait: one of them takes over.
void survives_cancellation() {
  std::atomic<bool> cancelled = false, loading = false;
  std::atomic<int> aborted = 0;
  std::thread first([&] {
    LoadProgress progress;
    progress.cancelled = &cancelled;
    progress.report = [&](int64_t, int64_t) {
      loading = true;
      while (!cancelled) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
    try {
      load("cancelled", progress);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kAborted) ++aborted;
    }
  });
  while (!loading) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::vector<std::shared_ptr<const Model>> models(3);
  std::vector<std::thread> waiting;
  for (auto& model : models) waiting.emplace_back([&model] { model = load("cancelled"); });
  // One that gives up while it waits leaves at once, although the first has not moved.
  std::atomic<bool> impatient = true;
  LoadProgress gives_up;
  gives_up.cancelled = &impatient;
  CHECK_THROWS(load("cancelled", gives_up), ErrorCode::kAborted);
  cancelled = true;
  first.join();
  for (std::thread& thread : waiting) thread.join();
  CHECK(aborted == 1);
  for (const auto& model : models) CHECK(model && model == models[0]);
}

void survives_failure() {
  Runtime& runtime = Runtime::get();
  WeightsSource empty;  // no tensors: BAD_MODEL_FILE
  for (int i = 0; i < 3; ++i) {
    CHECK_THROWS(runtime.load("broken", tiny_config(), empty, runtime.backend("reference", 0), WeightFormat::kF32, {}),
                 ErrorCode::kBadModelFile);
  }
  CHECK(load("broken") != nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  backends();
  shares_while_used();
  concurrent_loads();
  survives_cancellation();
  survives_failure();
  return run.finish();
}
