// Weights on their way to the device: matrices of many pieces, read by several threads at once while copies are under
// way, against the layout that kernels read; a source that fails in the middle. Schedules: copies at once, as late as
// may be, and between.

#include <atomic>
#include <cstdlib>
#include <thread>

#include "core/dtype.h"
#include "cuda/emulate/driver.h"
#include "cuda/emulate/global_memory.h"
#include "cuda/emulate/launch.h"
#include "cuda/weights.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::cuda;
using namespace qwen3::testing;

namespace {

float value_of(uint64_t key, int64_t row, int64_t col) {
  return static_cast<float>(static_cast<int32_t>((static_cast<uint64_t>(row * 131071 + col) + key) % 4001) - 2000);
}

struct Source {
  uint64_t key;
  int64_t rows, cols;
  DType dtype;
  int64_t fails_at = -1;  // row
  std::atomic<int64_t> reads{0};
  std::atomic<int> together{0}, most{0};

  static int32_t read(void* context, int64_t begin, int64_t end, void* out) {
    auto& s = *static_cast<Source*>(context);
    const int now = ++s.together;
    for (int seen = s.most; now > seen && !s.most.compare_exchange_weak(seen, now);) {
    }
    ++s.reads;
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < s.cols; ++c) {
        const float value = value_of(s.key, r, c);
        const int64_t at = (r - begin) * s.cols + c;
        if (s.dtype == DType::kF32) static_cast<float*>(out)[at] = value;
        if (s.dtype == DType::kBF16) static_cast<uint16_t*>(out)[at] = f32_to_bf16(value);
      }
    }
    --s.together;
    return s.fails_at >= begin && s.fails_at < end ? 1 : 0;
  }
  qwen3_cuda_source plain() { return {rows, cols, static_cast<int32_t>(dtype), &Source::read, this}; }
};

void test_linear(Loader& loader, DType dtype) {
  const int64_t cols = 1024;
  Source a{seed(), 22000, cols, dtype}, b{seed() + 1, 7000, cols, dtype};  // 57 MB of bf16
  const qwen3_cuda_source sources[] = {a.plain(), b.plain()};
  const auto weight = pack_weight(loader, WeightUse::kLinear, WeightFormat::kBF16, sources);
  loader.finish();
  CHECK(weight->rows == a.rows + b.rows && a.reads >= 5);
  int64_t wrong = 0;
  for (int64_t r = 0; r < weight->rows; ++r) {
    for (int64_t c = 0; c < cols; c += 7) {
      const float want = r < a.rows ? value_of(a.key, r, c) : value_of(b.key, r - a.rows, c);
      wrong += weight->data.as<uint16_t>()[r * cols + c] != f32_to_bf16(want) ? 1 : 0;
    }
  }
  CHECK_MSG(wrong == 0, std::to_string(wrong));
  if (std::thread::hardware_concurrency() > 1) CHECK(a.most > 1);
}

// 8 rows of gate, 8 of up, ...
void test_gate_up(Loader& loader, int64_t rows, int64_t cols) {
  Source gate{seed(), rows, cols, DType::kBF16}, up{seed() + 9, rows, cols, DType::kBF16};
  const qwen3_cuda_source sources[] = {gate.plain(), up.plain()};
  const auto weight = pack_weight(loader, WeightUse::kGateUp, WeightFormat::kBF16, sources);
  loader.finish();
  int64_t wrong = 0;
  for (int64_t r = 0; r < 2 * rows; ++r) {
    const int64_t from = r / 16 * 8 + r % 8;
    for (int64_t c = 0; c < cols; c += 5) {
      const float want = value_of(r % 16 < 8 ? gate.key : up.key, from, c);
      wrong += weight->data.as<uint16_t>()[r * cols + c] != f32_to_bf16(want) ? 1 : 0;
    }
  }
  CHECK_MSG(wrong == 0, std::to_string(wrong));
}

// Several small ones after another share the ring without waiting: each is right once all is finished.
void test_many(Loader& loader) {
  std::vector<std::unique_ptr<DeviceWeight>> weights;
  const int64_t before = emulate::driver_counters().pinned_allocations;
  for (uint64_t i = 0; i < 40; ++i) {
    Source source{seed() + i, 64, 96, DType::kF32};
    const qwen3_cuda_source plain = source.plain();
    weights.push_back(pack_weight(loader, WeightUse::kEmbedding, WeightFormat::kBF16, {&plain, 1}));
  }
  CHECK(emulate::driver_counters().pinned_allocations == before);
  loader.finish();
  for (uint64_t i = 0; i < weights.size(); ++i) {
    for (int64_t at = 0; at < 64 * 96; ++at)
      CHECK(weights[i]->data.as<uint16_t>()[at] == f32_to_bf16(value_of(seed() + i, at / 96, at % 96)));
  }
}

void test_failing_source(Loader& loader) {
  const int device = emulate::current_device();
  const size_t used = emulate::GlobalMemory::device().used(device);
  Source source{seed(), 40000, 1024, DType::kBF16};
  source.fails_at = 21000;
  const qwen3_cuda_source plain = source.plain();
  CHECK_THROWS(pack_weight(loader, WeightUse::kLinear, WeightFormat::kBF16, {&plain, 1}), ErrorCode::kAborted);
  CHECK(emulate::GlobalMemory::device().used(device) == used);
  test_many(loader);  // and the ring works on
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  using emulate::Completion;
  for (const Completion completion : {Completion::kEarly, Completion::kLate, Completion::kRandom}) {
    emulate::Session::current().schedule = {completion, seed()};
    // On a second device too: every thread that fills and copies has to select it.
    const int device = completion == Completion::kLate ? 1 : 0;
    use_device(device);
    Loader loader(device);
    loader.stream();
    test_many(loader);
    test_linear(loader, completion == Completion::kLate ? DType::kF32 : DType::kBF16);
    test_gate_up(loader, 20008, 512), test_gate_up(loader, 768, 2048);
    test_failing_source(loader);
  }
  return run.finish();
}
