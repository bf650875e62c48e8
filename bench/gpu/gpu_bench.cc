// gpu_bench: times the kernels at the shapes of the Qwen3 family and whole models of random weights on a GPU, without
// Node. One line of JSON per case:
//   {"case", "side": "ours", "us", "bytes", "flops", "gb_s", "tflop_s", "of_copy", "of_matrix"}
// bytes and flops are the least that the mathematics needs. of_copy: of the rate at which the device copies (read plus
// written) or reads, whichever is higher; of_matrix: of the rate of our own product of 8192 x 8192 x 8192; all measured
// first in this run. A case that cannot run says {"case", "skipped"}.
//
//   gpu_bench                    every case
//   gpu_bench --only PREFIX      those whose names begin so
//   gpu_bench --list             the names
//   gpu_bench --serve            one name per line of standard input, one line of answer each: a peer's measurements
//   can
//                                alternate with these in one run (bench/peers/torch_gpu.py)
//   --tiny                       shapes that the emulation runs in seconds

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>

#include "bench.h"

using namespace qwen3;
using namespace qwen3::gpu_bench;

namespace {

// An error ends the case, not the run; a device that is lost fails every later case with its own line.
void run_case(Bench& bench, const Case& c) {
  try {
    c.run(bench);
  } catch (const std::exception& error) {
    Bench::skip(c.name, error.what());
  }
}

int serve(Bench& bench, const std::vector<Case>& cases) {
  std::string name;
  while (std::getline(std::cin, name)) {
    const Case* found = nullptr;
    for (const Case& c : cases) {
      if (c.name == name) found = &c;
    }
    if (found) {
      run_case(bench, *found);
    } else {
      Bench::skip(name, "no such case");
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  bool tiny = false, list = false, serving = false;
  std::string prefix;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--tiny") {
      tiny = true;
    } else if (option == "--list") {
      list = true;
    } else if (option == "--serve") {
      serving = true;
    } else if (option == "--only" && i + 1 < argc) {
      prefix = argv[++i];
    } else {
      std::fprintf(stderr, "gpu_bench: unknown option %s (--tiny, --list, --serve, --only PREFIX)\n", option.c_str());
      return 2;
    }
  }
  std::vector<Case> cases;
  for (auto part : {kernel_cases(tiny), moe_cases(tiny), step_cases(tiny), model_cases(tiny)}) {
    for (Case& c : part) cases.push_back(std::move(c));
  }
  if (list) {
    for (const Case& c : cases) std::printf("%s\n", c.name.c_str());
    return 0;
  }
  try {
    if (cuda::driver_version() < cuda::kMinimumDriver) {
      std::fprintf(stderr, "gpu_bench: no driver that supports CUDA %d.%d\n", cuda::kMinimumDriver / 1000,
                   cuda::kMinimumDriver % 1000 / 10);
      return 2;
    }
    cuda::device_count();  // says why there is none
    cuda::use_device(0);
#if defined(QWEN3_CUDA_LIBRARY_FILE)
    setenv("QWEN3_CUDA_LIBRARY", QWEN3_CUDA_LIBRARY_FILE, 0);
#endif
    Bench bench(tiny);
    std::printf(
        "{\"device\": \"%s\", \"compute\": \"%d.%d\", \"multiprocessors\": %d, \"driver\": %d, \"memory\": %lld}\n",
        bench.device.name.c_str(), bench.device.major, bench.device.minor, bench.device.multiprocessors,
        cuda::driver_version(), static_cast<long long>(bench.device.memory_bytes));
    std::fflush(stdout);
    if (serving) return serve(bench, cases);
    for (const Case& c : cases) {
      // The limits are what the other figures are fractions of.
      if (c.name.starts_with("limit/") || (c.name != "unload" && c.name.starts_with(prefix))) run_case(bench, c);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
