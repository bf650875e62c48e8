// How many kernels a decoding layer takes, which, and which of them begin before their predecessor has ended: a queued
// step (a graph) of one row and of each bucket, dense and sparse, through the library's door with the emulation for a
// device. docs/cuda.md has the same table with its reasons.

#include <dlfcn.h>

#include <cstdlib>

#include "cuda/client/cuda_backend.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

struct Launches {
  std::vector<std::string> kernels;
  int64_t overlapping = 0;
};

// What this thread has launched since the last call (emulate/runtime.cc).
Launches take_launches() {
  void* const library = dlopen(std::getenv("QWEN3_CUDA_LIBRARY"), RTLD_NOW | RTLD_NOLOAD);
  using Visit = void (*)(void*, const char*, int32_t);
  const auto visit_all = reinterpret_cast<void (*)(Visit, void*)>(dlsym(library, "qwen3_cuda_emulated_launches"));
  Launches out;
  visit_all(
      [](void* context, const char* kernel, int32_t overlaps) {
        auto& launches = *static_cast<Launches*>(context);
        launches.kernels.emplace_back(kernel);
        launches.overlapping += overlaps;
      },
      &out);
  return out;
}

// One queued step of `rows` sequences, each with its 65th token; the first block of the cache is everybody's.
Launches decode_step(const ModelConfig& config, int32_t rows) {
  const auto backend = create_cuda_backend("cuda");
  const auto model = make_tiny_model(config, 5, *backend, WeightFormat::kBF16);
  const auto program = model->program(std::nullopt);
  const auto cache = backend->create_kv_cache(*program, DType::kBF16, rows + 1);
  const auto executable = backend->compile(program, model->weights(), 70, 128);
  executable->prepare(*cache, rows);
  const auto prompt = Random(seed(), 1).tokens(64, static_cast<int32_t>(config.vocab));
  run_sequence(*executable, *program, *cache, prompt, 0, 0, 0);
  std::vector<int32_t> blocks(static_cast<size_t>(2 * rows)), tokens(static_cast<size_t>(rows), 3), logits_rows;
  std::vector<StepSequence> sequences;
  for (int32_t i = 0; i < rows; ++i) {
    blocks[static_cast<size_t>(2 * i + 1)] = 1 + i;
    sequences.push_back({i, 1, 64, {blocks.data() + 2 * i, 2}, 0, true});
    logits_rows.push_back(i);
  }
  take_launches();
  executable->enqueue({tokens, sequences, logits_rows}, *cache, std::vector<RowSampling>(static_cast<size_t>(rows)));
  std::vector<int32_t> drawn(static_cast<size_t>(rows));
  executable->collect(drawn, {});
  for (const int32_t token : drawn) CHECK(token >= 0 && token < config.vocab);
  return take_launches();
}

using Kernels = std::vector<std::string>;

// A step is `first`, the layers, `last`; a layer is what a model of one more layer launches more.
void check_step(ModelConfig config, int32_t rows, const Kernels& first, const Kernels& layer, const Kernels& last,
                const std::string& what) {
  config.n_layers = 3;
  config.moe_layer.assign(3, config.n_experts > 0 ? 1 : 0);
  const Launches step = decode_step(config, rows);
  Kernels want = first;
  for (int i = 0; i < 3; ++i) want.insert(want.end(), layer.begin(), layer.end());
  want.insert(want.end(), last.begin(), last.end());
  std::string got;
  for (const std::string& kernel : step.kernels) got += kernel + " ";
  CHECK_MSG(step.kernels == want, what + ": " + got);
  std::printf("%s, %d rows: %zu launches a layer, %zu beside; %lld of %zu overlap with their predecessor\n",
              what.c_str(), rows, layer.size(), first.size() + last.size(), static_cast<long long>(step.overlapping),
              step.kernels.size());
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  if (!std::getenv("QWEN3_CUDA_LIBRARY")) {
    std::fprintf(stderr, "QWEN3_CUDA_LIBRARY must name the library with the emulated device\n");
    return 1;
  }
  const auto concatenate = [](Kernels a, const Kernels& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const Kernels first{"begin_step"};
  for (const int32_t rows : {1, 4, 8, 16}) {
    // linear_stream and the router take in the norms up to 4 rows, and the attention QK-Norm with RoPE and the append;
    // on sm_90a the experts take in the weighted sum up to 4.
    const Kernels norm = rows <= 4 ? Kernels{} : Kernels{"rms_norm"};
    Kernels attention = concatenate(norm, {"linear_stream"});
    attention = concatenate(concatenate(attention, {"attention_decode", "linear_stream"}), norm);
    const Kernels last = concatenate(norm, {"linear_stream", "sample", "sample_all"});
    check_step(tiny_config(), rows, first, concatenate(attention, {"linear_stream", "linear_stream"}), last, "dense");
    Kernels experts{"moe_route_few", "moe_stream", "moe_stream", "moe_combine"};
    check_step(tiny_moe_config(), rows, first, concatenate(attention, experts), last, "sparse");
    if (rows == 1 || rows == 16) continue;
    if (rows <= 4) experts.pop_back();
    setenv("QWEN3_EMULATED_COMPUTE", "90", 1);
    check_step(tiny_moe_config(), rows, first, concatenate(attention, experts), last, "sparse, sm_90a");
    unsetenv("QWEN3_EMULATED_COMPUTE");
  }
  return run.finish();
}
