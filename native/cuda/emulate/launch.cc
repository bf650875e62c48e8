#include "cuda/emulate/launch.h"

#include <algorithm>
#include <numeric>

namespace qwen3::cuda::emulate {

Session& Session::current() {
  static thread_local Session session;
  return session;
}

void run_grid(const std::string& kernel, Dim3 grid, Dim3 threads, int shared_bytes, const std::function<void()>& body) {
  const auto refuse = [&](const std::string& what) {
    throw EmulationError(Fault::kLaunch,
                         std::string(fault_name(Fault::kLaunch)) + " of kernel " + kernel + ": " + what);
  };
  const int n_threads = threads.x * threads.y * threads.z;
  if (n_threads % 32 != 0 || n_threads < 32 || n_threads > 1024) refuse(std::to_string(n_threads) + " threads");
  if (shared_bytes < 0 || shared_bytes > 227 * 1024) refuse(std::to_string(shared_bytes) + " bytes of shared memory");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535) refuse("grid");

  Session& session = Session::current();
  Counters counters;
  counters.kernel = kernel;
  counters.blocks = int64_t{grid.x} * grid.y * grid.z;
  counters.threads = n_threads;
  static thread_local SharedShadow shadow;
  static thread_local FiberStacks stacks;
  WarpGrouper grouper(counters);
  std::vector<int64_t> order(static_cast<size_t>(counters.blocks));
  std::iota(order.begin(), order.end(), 0);
  uint64_t state = session.schedule.seed * 0x9E3779B97F4A7C15u + 1;
  for (size_t i = order.size(); i > 1; --i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[i - 1], order[(state >> 33) % i]);
  }
  for (const int64_t i : order) {
    const Index3 index{static_cast<int>(i % grid.x), static_cast<int>(i / grid.x % grid.y),
                       static_cast<int>(i / (int64_t{grid.x} * grid.y))};
    Block block({kernel,
                 index,
                 {grid.x, grid.y, grid.z},
                 {threads.x, threads.y, threads.z},
                 static_cast<uint32_t>(shared_bytes),
                 session.schedule},
                shadow, stacks, counters, grouper);
    block.run(body);
  }
  counters.distinct_sectors_read = static_cast<int64_t>(grouper.sectors_read().size());
  session.launches.push_back(std::move(counters));
}

}  // namespace qwen3::cuda::emulate
