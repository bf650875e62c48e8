// limits_tool [--threads N] [--rounds N] [--one-count] [--read-only]: prints the machine's limits as one line of JSON.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "machine_limits.h"

int main(int argc, char** argv) {
  qwen3::bench::LimitsOptions options;
  for (int i = 1; i < argc; ++i) {
    const auto is = [&](const char* name) { return std::strcmp(argv[i], name) == 0; };
    const auto number = [&] { return i + 1 < argc ? std::atoi(argv[++i]) : 0; };
    if (is("--threads"))
      options.threads = number();
    else if (is("--rounds"))
      options.read_rounds = number();
    else if (is("--one-count"))
      options.one_count = true;
    else if (is("--read-only"))
      options.arithmetic = false;
    else {
      std::fprintf(stderr, "unknown flag %s\n", argv[i]);
      return 2;
    }
  }
  try {
    std::printf("%s\n", to_json(qwen3::bench::measure_limits(options)).c_str());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "limits_tool: no memory for the arrays that are read\n");
    return 1;
  }
  return 0;
}
