// gpu_bench: times each kernel at the shapes of the Qwen3 family on a GPU, without Node. One JSON line per case:
//   {"kernel", "shape", "us", "gb_s", "of_copy", "tflop_s", "of_matrix"}
// of_copy: of the rate at which cudaMemcpyAsync moves bytes on the device in this run (read plus write); of_matrix: of
// the best rate that our own GEMM reached in this run (8192 x 8192 x 8192), which is not the chip's peak. Weights
// rotate through more memory than the L2 holds. Medians of 20. Not run on any GPU yet.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/runtime.h"
#include "cuda/sampling.h"
#include "cuda/schedule.h"

using namespace qwen3;
using namespace qwen3::cuda;

namespace {

constexpr size_t kPool = size_t{1} << 30;  // larger than any L2

struct Bench {
  Stream stream = create_stream();
  DeviceDescription device = describe_device(0);
  DeviceBuffer pool{kPool}, activations{size_t{1} << 29}, outputs{size_t{1} << 30};
  double copy_rate = 0, matrix_rate = 0;  // bytes, FLOP per second

  // Median seconds of one call; `call` gets the number of the repetition.
  double time(const std::function<void(int)>& call) const {
    cudaEvent_t begin, end;
    cudaEventCreate(&begin), cudaEventCreate(&end);
    std::vector<float> all;
    for (int i = 0; i < 23; ++i) {
      cudaEventRecord(begin, stream);
      call(i);
      cudaEventRecord(end, stream);
      cudaEventSynchronize(end);
      float ms = 0;
      cudaEventElapsedTime(&ms, begin, end);
      if (i >= 3) all.push_back(ms);
    }
    cudaEventDestroy(begin), cudaEventDestroy(end);
    std::nth_element(all.begin(), all.begin() + 10, all.end());
    return all[10] / 1e3;
  }
  void line(const char* kernel, const std::string& shape, double seconds, double bytes, double flops) const {
    std::printf(
        "{\"kernel\": \"%s\", \"shape\": \"%s\", \"us\": %.2f, \"gb_s\": %.1f, \"of_copy\": %.3f, \"tflop_s\": %.1f, "
        "\"of_matrix\": %.3f}\n",
        kernel, shape.c_str(), seconds * 1e6, bytes / seconds / 1e9, bytes / seconds / copy_rate,
        flops / seconds / 1e12, matrix_rate > 0 ? flops / seconds / matrix_rate : 0.0);
  }
  // The part of the pool that repetition i reads.
  const Bf16* weight(int i, size_t bytes) const {
    const size_t parts = std::max<size_t>(1, kPool / bytes);
    return pool.as<Bf16>() + static_cast<size_t>(i) % parts * (bytes / 2);
  }
};

void run_linear(Bench& b, const char* model, int rows, int n, int k, Output output) {
  const size_t bytes = static_cast<size_t>(n) * static_cast<size_t>(k) * 2;
  const bool few = rows <= 64;
  const double seconds = b.time([&](int i) {
    const LinearOperands o{b.activations.as<Bf16>(), b.weight(i, bytes), b.outputs.as<void>()};
    if (few) {
      linear_stream(b.stream, o, {rows, n, k}, output);
    } else if (b.device.hopper) {
      linear_hopper(b.stream, o, {rows, n, k}, output, b.device.multiprocessors);
    } else {
      linear(b.stream, o, {rows, n, k}, output);
    }
  });
  const double flops = 2.0 * rows * n * k;
  if (std::string(model) == "square") b.matrix_rate = std::max(b.matrix_rate, flops / seconds);
  b.line(few               ? "linear_stream"
         : b.device.hopper ? "linear_hopper"
                           : "linear",
         std::string(model) + " " + std::to_string(rows) + " x " + std::to_string(n) + " x " + std::to_string(k),
         seconds, static_cast<double>(bytes) + rows * (2.0 * k + 4.0 * n), flops);
}

// Sequences of equal length, blocks in order.
void run_attention(Bench& b, const HeadShape& heads, int sequences, int keys, bool decode) {
  const int blocks = (keys + 63) / 64, rows = decode ? 1 : keys;
  std::vector<int32_t> table(static_cast<size_t>(sequences * blocks));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  std::vector<StepSequence> step;
  for (int s = 0; s < sequences; ++s) {
    step.push_back({s * rows, rows, keys - rows, {table.data() + s * blocks, static_cast<size_t>(blocks)}, 0});
  }
  const AttentionSchedule schedule = schedule_attention(step, heads, false);
  const auto upload = [&](const auto& v) {
    DeviceBuffer to(v.size() * sizeof(v[0]) + 16);
    copy_to_device(b.stream, to.as<void>(), v.data(), v.size() * sizeof(v[0]));
    return to;
  };
  const DeviceBuffer device_sequences = upload(schedule.sequences), device_table = upload(schedule.block_table);
  const DeviceBuffer tiles = upload(decode ? schedule.decode : schedule.prefill), combine = upload(schedule.combine);
  const DeviceBuffer partials(
      static_cast<size_t>(schedule.n_partials) * static_cast<size_t>(partial_elements(heads)) * 4 + 16);
  const size_t elements =
      table.size() * static_cast<size_t>(heads.n_kv_heads) * 64 * static_cast<size_t>(heads.head_dim);
  const DeviceBuffer keys_pool(elements * 2), values_pool(elements * 2);
  fill_bytes(b.stream, keys_pool.as<void>(), 0, elements * 2),
      fill_bytes(b.stream, values_pool.as<void>(), 0, elements * 2);
  synchronize(b.stream);
  const KvLayer cache{keys_pool.as<Bf16>(), values_pool.as<Bf16>()};
  const AttentionWork work{device_sequences.as<AttentionSequence>(), device_table.as<int32_t>(),
                           tiles.as<AttentionTile>(),
                           static_cast<int>(decode ? schedule.decode.size() : schedule.prefill.size())};
  const double seconds = b.time([&](int) {
    if (decode) {
      attention_decode(b.stream, b.activations.as<Bf16>(), cache, work, heads, partials.as<float>(),
                       b.outputs.as<Bf16>());
      attention_combine(b.stream, partials.as<float>(), combine.as<CombineRow>(),
                        static_cast<int>(schedule.combine.size()), heads, b.outputs.as<Bf16>());
    } else if (b.device.hopper && prefill_on_hopper(heads)) {
      attention_prefill_hopper(b.stream, b.activations.as<Bf16>(), cache, static_cast<int64_t>(table.size()), work,
                               heads, sequences * rows, b.outputs.as<Bf16>());
    } else {
      attention_prefill(b.stream, b.activations.as<Bf16>(), cache, work, heads, b.outputs.as<Bf16>());
    }
  });
  const double visible = decode ? keys : double(keys) * (keys + 1) / 2;
  b.line(decode ? "attention_decode" : "attention_prefill",
         std::to_string(sequences) + " x " + std::to_string(keys) + ", heads " + std::to_string(heads.n_q_heads) + "/" +
             std::to_string(heads.n_kv_heads),
         seconds, double(elements) * 4 + 4.0 * sequences * rows * heads.n_q_heads * heads.head_dim,
         4.0 * sequences * visible * heads.n_q_heads * heads.head_dim);
}

void run_sampling(Bench& b, int rows) {
  const int vocab = 151936;
  std::vector<SamplingRow> plan(static_cast<size_t>(rows), sampling_row(0.6f, 0.95f, 20, 0));
  DeviceBuffer plans(plan.size() * sizeof plan[0]), ids(static_cast<size_t>(rows) * 4);
  copy_to_device(b.stream, plans.as<void>(), plan.data(), plan.size() * sizeof plan[0]);
  fill_bytes(b.stream, b.outputs.as<void>(), 0, static_cast<size_t>(rows) * vocab * 4);
  const double seconds = b.time([&](int) {
    sample(b.stream, b.outputs.as<float>(), rows, vocab, plans.as<SamplingRow>(), nullptr, nullptr, ids.as<int32_t>(),
           nullptr);
  });
  b.line("sample", std::to_string(rows) + " x 151936", seconds, double(rows) * vocab * 4, 0);
}

}  // namespace

int main() {
  if (driver_version() < kMinimumDriver || device_count() == 0) {
    std::fprintf(stderr, "gpu_bench: no GPU, or no driver that supports CUDA %d.%d\n", kMinimumDriver / 1000,
                 kMinimumDriver % 1000 / 10);
    return 2;
  }
  use_device(0);
  Bench b;
  std::printf("{\"device\": \"%s\", \"compute\": \"%d.%d\", \"multiprocessors\": %d}\n", b.device.name.c_str(),
              b.device.major, b.device.minor, b.device.multiprocessors);
  for (const DeviceBuffer* buffer : {&b.pool, &b.activations, &b.outputs}) {
    fill_bytes(b.stream, buffer->as<void>(), 0x3c, buffer->bytes());  // bf16 and f32 numbers near 0.01
  }
  const size_t half = kPool / 2;
  b.copy_rate = 2.0 * double(half) / b.time([&](int) {
    copy_on_device(b.stream, b.pool.as<std::byte>() + half, b.pool.as<std::byte>(), half);
  });
  run_linear(b, "square", 8192, 8192, 8192, Output::kStoreF32);
  // qkv, o, gate and up, down of one layer.
  const struct {
    const char* name;
    int hidden, q, kv, ffn;
  } models[] = {{"0.6b", 1024, 2048, 2048, 3072},
                {"4b", 2560, 4096, 2048, 9728},
                {"8b", 4096, 4096, 2048, 12288},
                {"32b", 5120, 8192, 2048, 25600}};
  for (const auto& m : models) {
    for (const int rows : {1, 8, 16, 64, 4096}) {
      run_linear(b, m.name, rows, m.q + m.kv, m.hidden, Output::kStoreF32);
      run_linear(b, m.name, rows, m.hidden, m.q, Output::kAddF32);
      run_linear(b, m.name, rows, 2 * m.ffn, m.hidden, Output::kSiluMul);
      run_linear(b, m.name, rows, m.hidden, m.ffn, Output::kAddF32);
    }
  }
  for (const int keys : {4096, 8192, 16384}) run_attention(b, {32, 8, 128}, 1, keys, false);
  for (const int sequences : {1, 8, 64}) {
    for (const int keys : {1024, 8192, 32768}) {
      if (sequences * keys <= 64 * 8192) run_attention(b, {32, 8, 128}, sequences, keys, true);
    }
  }
  for (const int rows : {1, 64}) run_sampling(b, rows);
  synchronize(b.stream);
  return 0;
}
