#include "cuda/emulate/launch.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <unordered_set>

namespace qwen3::cuda::emulate {

namespace {

// A multiprocessor's room for one block.
struct Place {
  SharedShadow shadow;
  FiberStacks stacks;
  std::optional<WarpGrouper> grouper;
  std::optional<Block> block;
};

// Ascending when everything is early, descending when it is late: of two blocks each comes first once. Shuffled by the
// seed otherwise.
std::vector<int64_t> block_order(int64_t n, const Schedule& schedule) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  if (schedule.completion == Completion::kLate) std::reverse(order.begin(), order.end());
  if (schedule.completion != Completion::kRandom) return order;
  uint64_t state = schedule.seed * 0x9E3779B97F4A7C15u + 1;
  for (size_t i = order.size(); i > 1; --i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[i - 1], order[(state >> 33) % i]);
  }
  return order;
}

// Runs the blocks of one launch, as many at a time as are resident.
class GridRun {
 public:
  GridRun(Block::Config config, const std::function<void()>& body, Counters& counters)
      : config_(std::move(config)),
        body_(body),
        counters_(counters),
        order_(block_order(counters.blocks, config_.schedule)),
        grid_(config_.overlaps_previous) {
    resident_ = static_cast<size_t>(std::min<int64_t>(counters.blocks, std::max(1, config_.schedule.resident)));
    while (places().size() < resident_) places().push_back(std::make_unique<Place>());
    for (const auto& place : places()) place->block.reset(), place->grouper.emplace(counters);
  }

  void run() {
    for (size_t i = 0; i < resident_; ++i) fill(*places()[i]);
    uint64_t state = config_.schedule.seed;
    size_t turn = 0;
    while (running_ > 0) {
      if (config_.schedule.completion == Completion::kRandom && resident_ > 1) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        turn = (state >> 33) % resident_;
      }
      // A block runs on until it ends or polls for another one's word; at random it may stop anywhere.
      Place& place = *places()[turn];
      if (place.block && !place.block->step()) {
        place.block->finish();
        place.block.reset();
        --running_;
        fill(place);
      }
      if (!place.block || place.block->polling()) turn = (turn + 1) % resident_;
    }
    // The next kernel waits for this one alone: it must not end before the ones that came earlier.
    if (config_.overlaps_previous && !grid_.waited) {
      throw EmulationError(Fault::kDependency, std::string(fault_name(Fault::kDependency)) + " in kernel " +
                                                   config_.kernel + ": no thread waited at all");
    }
    grid_.end();
    std::unordered_set<uint64_t> distinct;
    for (size_t i = 0; i < resident_; ++i) distinct.merge(places()[i]->grouper->sectors_read());
    counters_.distinct_sectors_read = static_cast<int64_t>(distinct.size());
  }

 private:
  // Stacks and shadows are kept from launch to launch.
  static std::vector<std::unique_ptr<Place>>& places() {
    static thread_local std::vector<std::unique_ptr<Place>> all;
    return all;
  }
  void fill(Place& place) {
    if (next_ == order_.size()) return;
    const int64_t i = order_[next_++];
    const Index3& n = config_.grid;
    config_.block = {static_cast<int>(i % n.x), static_cast<int>(i / n.x % n.y),
                     static_cast<int>(i / (int64_t{n.x} * n.y))};
    place.block.emplace(config_, grid_, place.shadow, place.stacks, counters_, *place.grouper);
    place.block->start(body_);
    ++running_;
  }

  Block::Config config_;
  const std::function<void()>& body_;
  Counters& counters_;
  std::vector<int64_t> order_;
  Grid grid_;
  size_t resident_ = 1, next_ = 0, running_ = 0;
};

}  // namespace

Session& Session::current() {
  static thread_local Session session;
  return session;
}

void run_grid(const std::string& kernel, Dim3 grid, Dim3 threads, int shared_bytes, const std::function<void()>& body,
              bool overlaps_previous) {
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
  counters.overlaps_previous = overlaps_previous;
  counters.blocks = int64_t{grid.x} * grid.y * grid.z;
  counters.threads = n_threads;
  GridRun({kernel,
           {},
           {grid.x, grid.y, grid.z},
           {threads.x, threads.y, threads.z},
           static_cast<uint32_t>(shared_bytes),
           session.schedule,
           overlaps_previous},
          body, counters)
      .run();
  session.launches.push_back(std::move(counters));
}

}  // namespace qwen3::cuda::emulate
