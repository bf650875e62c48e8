#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cuda/emulate/block.h"
#include "cuda/ptx/types.h"

namespace qwen3::cuda::emulate {

// What the emulated device allows and remembers, per host thread.
struct Session {
  Schedule schedule;
  std::vector<Counters> launches;  // of all kernels since the test last cleared it
  static Session& current();
};

// Runs every block of the grid, in an order that the session's seed chooses. overlaps_previous: it is launched to
// overlap with the kernel before; it runs after it all the same, and what it touches before it waits is checked. Throws
// EmulationError.
void run_grid(const std::string& kernel, Dim3 grid, Dim3 threads, int shared_bytes, const std::function<void()>& body,
              bool overlaps_previous = false);

}  // namespace qwen3::cuda::emulate
