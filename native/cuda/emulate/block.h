#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/emulate/counters.h"
#include "cuda/emulate/error.h"
#include "cuda/emulate/fiber.h"
#include "cuda/emulate/grid.h"
#include "cuda/emulate/shadow.h"

namespace qwen3::cuda::emulate {

// When asynchronous work happens between its issue and the wait for it. kEarly: at once. kLate: when somebody would
// wait for ever without it. kRandom: at points that the seed chooses, operands and results apart from each other.
enum class Completion : uint8_t { kEarly, kLate, kRandom };
struct Schedule {
  Completion completion = Completion::kRandom;
  uint64_t seed = 1;  // of the order of threads and blocks, too
  int resident = 1;   // blocks that run at a time, interleaved; kEarly: the first is preferred, kLate: the last
};

struct Index3 {
  int x = 0, y = 0, z = 0;
};

// An instruction in flight: reads its operands at one moment, writes its results at another.
struct AsyncOp {
  uint32_t group = 0;
  std::function<void()> read, write;
  bool was_read = false;
};

// Operations that complete in the order of their issue and are waited for by groups: cp.async and bulk stores of one
// thread, wgmma of one warpgroup. Group g is time g of `agent`.
struct AsyncQueue {
  Agent agent = 0;
  uint32_t committed = 0;                             // groups closed so far; the open one is committed + 1
  uint32_t issued = 0;                                // the newest group that holds an operation
  std::deque<AsyncOp> ops;                            // oldest first
  std::vector<std::pair<uint32_t, uint32_t>> waited;  // (group, own time of the thread when it had waited for it)
  bool unfinished() const { return issued > (waited.empty() ? 0 : waited.back().first); }
};

struct Thread {
  enum class State : uint8_t { kReady, kBlocked, kDone };
  Fiber fiber;
  class Block* block = nullptr;
  int index = 0;
  State state = State::kReady;
  const char* waiting_for = "";
  Where where;
  uint32_t time = 1;
  VectorClock clock;
  std::vector<uint32_t> fences;   // own times of fence.proxy.async
  VectorClock fenced;             // the thread's view at its last fence.acq_rel.gpu
  VectorClock::Foreign unfenced;  // what was read of other blocks' releases since then
  AsyncQueue copies, bulk_stores;
  struct InFlight {
    uint32_t group;
    int* uses;
  };
  std::vector<InFlight> wgmma_registers;
  uint32_t wgmma_fences = 0;
  uint32_t wgmma_committed = 0;
  int64_t barriers = 0;
};

// One block of a launch: its threads as fibers, its shared memory, its barriers. All methods but run() are called from
// the running thread's fiber and throw EmulationError.
class Block {
 public:
  struct Config {
    std::string kernel;
    Index3 block, grid, threads;
    uint32_t shared_bytes = 0;
    Schedule schedule;
    bool overlaps_previous = false;  // may begin before earlier kernels have ended
  };
  Block(const Config& config, Grid& grid, SharedShadow& shadow, FiberStacks& stacks, Counters& counters,
        WarpGrouper& grouper);
  // Prepares every thread to run `body`.
  void start(const std::function<void()>& body);
  // Lets one thread run until it waits or ends. Throws the first fault. False: all have ended.
  bool step();
  // Whether the thread that ran last gave way because it polls for what another block does.
  bool polling() const { return polling_; }
  void finish();

  static Block& current();
  Thread& self() { return *running_; }
  const Config& config() const { return config_; }
  Counters& counters() { return counters_; }
  WarpGrouper& grouper() { return grouper_; }
  int n_threads() const { return static_cast<int>(threads_.size()); }

  [[noreturn]] void fail(Fault fault, const std::string& what, const Where& where);

  // Shared memory, generic proxy.
  void shared_read(uint32_t address, void* out, uint32_t bytes, const Where& where);
  void shared_write(uint32_t address, const void* in, uint32_t bytes, const Where& where);
  uint32_t shared_atomic_add(uint32_t address, uint32_t value, const Where& where);
  void shared_atomic_add64(uint32_t address, uint64_t value, const Where& where);
  // Marks and checks without moving bytes; `seen` is the issuer's view. as: who reads or writes.
  void mark_read(uint32_t address, uint32_t bytes, const SharedShadow::Access& as, const VectorClock& seen,
                 bool async_proxy, const Where& where);
  void mark_write(uint32_t address, uint32_t bytes, const SharedShadow::Access& as, const VectorClock& seen,
                  bool generic, const Where& where);
  void check_shared(uint32_t address, uint32_t bytes, uint32_t alignment, const Where& where);
  std::byte* shared_data() { return shadow_.data(); }

  // Global memory. Checks bounds, alignment and races; the caller moves the bytes.
  void check_global(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where);
  void global_read(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where);
  void global_write(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where);
  void global_atomic(const void* pointer, uint32_t bytes, const Where& where);
  // A relaxed load of a word that others write atomically: a polling thread gives way first.
  void global_poll(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where);
  void device_fence();
  // griddepcontrol.wait: earlier kernels have ended and their writes are visible.
  void dependency_wait();
  void dependency_launch();
  // Of copies, which are checked as a whole: as: the copy's own agent and time.
  void check_global_race(const void* pointer, size_t bytes, const SharedShadow::Access& as, bool write, bool atomic,
                         const Where& where);

  // Every lane of a warp (or thread of a warpgroup) calls; the last one runs `execute` over all arguments.
  using Collective = void (*)(Block& block, void** arguments, const Where& where);
  void warp_collective(const char* name, void* argument, Collective execute, const Where& where);
  void warpgroup_collective(const char* name, void* argument, Collective execute, const Where& where);
  Thread& lane_thread(int lane) { return threads_[static_cast<size_t>(self().index / 32 * 32 + lane)]; }
  Thread& warpgroup_thread(int i) { return threads_[static_cast<size_t>(self().index / 128 * 128 + i)]; }

  void barrier(int id, int count, bool wait, const Where& where);
  void warp_barrier(const Where& where);
  void proxy_fence();

  void mbarrier_init(uint32_t address, uint32_t count, const Where& where);
  void mbarrier_arrive(uint32_t address, uint32_t expect_bytes, const Where& where);
  void mbarrier_wait(uint32_t address, uint32_t parity, const Where& where);
  // Adds work that completes `bytes` on the mbarrier. Writes to shared memory are stamped with the returned access.
  SharedShadow::Access transaction(uint32_t mbarrier, const Where& where);
  void add_transaction(uint32_t mbarrier, uint32_t bytes, std::function<void()> read, std::function<void()> write,
                       const Where& where);

  void add_async(AsyncQueue& queue, std::function<void()> read, std::function<void()> write);
  void commit(AsyncQueue& queue) { ++queue.committed; }
  // Completes all but the newest `pending` groups. reads_only: results may still be on their way.
  void wait_groups(AsyncQueue& queue, uint32_t pending, bool reads_only);
  AsyncQueue& warpgroup_queue() { return warpgroups_[static_cast<size_t>(self().index / 128)]; }
  SharedShadow::Access own_access(const Where& where) {
    return {static_cast<Agent>(self().index), self().time, static_cast<int>(where.line())};
  }

 private:
  struct NamedBarrier {
    int count = 0, arrived = 0;
    std::vector<int> waiting;
    VectorClock clock;
    Where where;
  };
  struct Mbarrier {
    uint32_t count = 0, pending = 0, phase = 0;
    int64_t transactions = 0;
    Agent agent = 0;
    VectorClock arriving, completed;
    SharedShadow::Access init;
    std::vector<int> waiting;
  };
  struct Transaction {
    uint32_t mbarrier = 0, bytes = 0;
    AsyncOp op;
    Where where;
  };
  struct CollectiveSlot {
    int arrived = 0;
    const char* name = nullptr;
    unsigned line = 0;
    std::array<void*, 128> arguments{};
  };

  static void fiber_main(void* thread);
  int64_t number() const;  // of the block in the grid
  void release_at(uintptr_t address);
  bool heard_of_wait() const;
  void check_dependency(uintptr_t address, size_t bytes, bool write, const Where& where);
  void block_self(const char* reason, const Where& where);
  void make_ready(int thread);
  void collective(CollectiveSlot& slot, int first, int size, const char* name, void* argument, Collective execute,
                  const Where& where);
  void release(Thread& thread, VectorClock& into);
  uint64_t random();  // SplitMix64
  void step_async();
  bool force_transaction();
  static void advance(AsyncOp& op, bool to_end);
  void finish_transaction(size_t i);
  void complete_phase_if_due(Mbarrier& barrier);
  Mbarrier& usable(uint32_t address, const Where& where);
  bool proxy_fenced(const SharedShadow::Cell& cell, const VectorClock& seen) const;
  void check_finished();
  [[noreturn]] void report_deadlock();
  void mark_atomic(uint32_t address, uint32_t bytes, const Where& where);
  void report_conflict(const SharedShadow::Found& found, const char* what, const SharedShadow::Access& as,
                       const Where& where);
  std::string agent_name(Agent agent) const;

  Config config_;
  Grid& grid_;
  SharedShadow& shadow_;
  FiberStacks& stacks_;
  Counters& counters_;
  WarpGrouper& grouper_;
  std::deque<Thread> threads_;
  Thread* running_ = nullptr;
  Fiber scheduler_;
  std::vector<int> ready_;
  size_t live_ = 0;
  std::vector<std::pair<Agent, uint32_t>> dependency_waits_;  // threads and their times
  bool polling_ = false;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr error_;
  std::array<NamedBarrier, 16> barriers_;
  std::map<uint32_t, Mbarrier> mbarriers_;
  std::vector<Transaction> transactions_;
  std::vector<CollectiveSlot> warps_, warpgroup_slots_;
  std::vector<AsyncQueue> warpgroups_;
  std::vector<VectorClock> warp_clocks_;
  uint64_t random_state_;
};

}  // namespace qwen3::cuda::emulate
