// gpu_check: the tests of the CUDA kernels on a GPU, without Node. Every operation on random shapes with poisoned
// outputs against float64, then whole models through libqwen3_cuda.so: tiny ones against the scalar reference, a random
// 0.6B and a mixture of experts against the CPU backend. The sources are those of the emulation's tests; each one's
// main() is renamed by the build.
//   --small       once each and tiny models only, for compute-sanitizer
//   --part NAME   one of ops, stream, attention, moe, sampling, backend, model, loop: an error that the device keeps
//                 fails all that follow in its process, so scripts run the parts as processes of their own

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

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
  const char* only = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) setenv("QWEN3_GPU_SMALL", "1", 1);
    if (std::strcmp(argv[i], "--part") == 0 && i + 1 < argc) only = argv[i + 1];
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
    const char *part, *name;
    int (*run)(int, char**);
  } parts[] = {{"ops", "linear, norms, embed", cuda_ops_main},
               {"stream", "linear with what surrounds it", cuda_stream_main},
               {"attention", "attention", cuda_attention_main},
               {"moe", "mixture of experts", cuda_moe_main},
               {"sampling", "sampling", cuda_sampling_main},
               {"backend", "whole models", cuda_backend_main},
               {"model", "whole models against the CPU", cuda_model_main},
               {"loop", "the step loop", cuda_loop_main}};
  int failed = 0, ran = 0;
  for (const auto& part : parts) {
    if (only && std::strcmp(only, part.part) != 0) continue;
    std::printf("== %s\n", part.name);
    std::fflush(stdout);
    ++ran;
    try {
      failed += part.run(argc, argv) != 0 ? 1 : 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "gpu_check: %s ended with: %s\n", part.part, error.what());
      ++failed;
    }
  }
  if (ran == 0) {
    std::fprintf(stderr, "gpu_check: no part is named %s\n", only);
    return 2;
  }
  std::printf("%s\n", failed ? "FAILED" : "all passed");
  return failed ? 1 : 0;
}
