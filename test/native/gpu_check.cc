// gpu_check: the tests of the CUDA kernels on a GPU, without Node. Every operation on random shapes with poisoned
// outputs against float64, then whole models through libqwen3_cuda.so: tiny ones against the scalar reference, a random
// 0.6B and a mixture of experts against the CPU backend. The sources are those of the emulation's tests; each one's
// main() is renamed by the build. --small: once each and tiny models only, for compute-sanitizer.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/client/cuda_backend.h"

int cuda_ops_main(int argc, char** argv);
int cuda_stream_main(int argc, char** argv);
int cuda_attention_main(int argc, char** argv);
int cuda_moe_main(int argc, char** argv);
int cuda_sampling_main(int argc, char** argv);
int cuda_backend_main(int argc, char** argv);
int cuda_model_main(int argc, char** argv);
int cuda_loop_main(int argc, char** argv);

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) setenv("QWEN3_GPU_SMALL", "1", 1);
  }
  setenv("CUDA_LAUNCH_BLOCKING", "1", 0);  // tests read results right after a launch
  setenv("QWEN3_CUDA_LIBRARY", QWEN3_CUDA_LIBRARY_FILE, 0);
  const qwen3::CudaReport report = qwen3::cuda_report();
  if (!report.reason.empty()) {
    std::fprintf(stderr, "gpu_check: %s\n", report.reason.c_str());
    return 2;
  }
  std::printf("%s, compute capability %d.%d, driver for CUDA %s\n", report.devices[0].name.c_str(),
              report.devices[0].compute_major, report.devices[0].compute_minor, report.devices[0].driver.c_str());
  const struct {
    const char* name;
    int (*run)(int, char**);
  } parts[] = {{"linear, norms, embed", cuda_ops_main},
               {"linear with what surrounds it", cuda_stream_main},
               {"attention", cuda_attention_main},
               {"mixture of experts", cuda_moe_main},
               {"sampling", cuda_sampling_main},
               {"whole models", cuda_backend_main},
               {"whole models against the CPU", cuda_model_main},
               {"the step loop", cuda_loop_main}};
  int failed = 0;
  for (const auto& part : parts) {
    std::printf("== %s\n", part.name);
    failed += part.run(argc, argv) != 0 ? 1 : 0;
  }
  std::printf("%s\n", failed ? "FAILED" : "all passed");
  return failed ? 1 : 0;
}
