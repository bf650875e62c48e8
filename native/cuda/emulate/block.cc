#include "cuda/emulate/block.h"

#include <algorithm>
#include <exception>

namespace qwen3::cuda::emulate {
namespace {

thread_local Block* current_block = nullptr;

}  // namespace

const char* fault_name(Fault fault) {
  switch (fault) {
    case Fault::kGlobalBounds:
      return "global access out of bounds";
    case Fault::kGlobalAlignment:
      return "misaligned global access";
    case Fault::kSharedBounds:
      return "shared access out of bounds";
    case Fault::kSharedAlignment:
      return "misaligned shared access";
    case Fault::kUninitialised:
      return "read of shared memory that nobody wrote";
    case Fault::kRace:
      return "race";
    case Fault::kGlobalRace:
      return "race in global memory";
    case Fault::kDependency:
      return "access before grid_dependency_wait";
    case Fault::kProxyFence:
      return "missing fence.proxy.async";
    case Fault::kRegistersInUse:
      return "wgmma registers in use";
    case Fault::kBarrierCount:
      return "wrong barrier count";
    case Fault::kMbarrier:
      return "mbarrier misuse";
    case Fault::kDivergence:
      return "divergent collective";
    case Fault::kDeadlock:
      return "deadlock";
    case Fault::kUnfinishedCopies:
      return "asynchronous work not waited for";
    case Fault::kDescriptor:
      return "bad descriptor";
    case Fault::kLaunch:
      return "bad launch";
  }
  return "?";
}

Block& Block::current() {
  return *current_block;
}

Block::Block(const Config& config, Grid& grid, SharedShadow& shadow, FiberStacks& stacks, Counters& counters,
             WarpGrouper& grouper)
    : config_(config),
      grid_(grid),
      shadow_(shadow),
      stacks_(stacks),
      counters_(counters),
      grouper_(grouper),
      random_state_(config.schedule.seed * 0x9E3779B97F4A7C15u + 0x1234567u +
                    static_cast<uint64_t>(config.block.x) * 7919u + static_cast<uint64_t>(config.block.y) * 104729u) {
  const int n = config.threads.x * config.threads.y * config.threads.z;
  threads_.resize(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    Thread& t = threads_[static_cast<size_t>(i)];
    t.block = this, t.index = i;
    t.clock.set(static_cast<Agent>(i), t.time);
    t.copies.agent = static_cast<Agent>(n + i);
    t.bulk_stores.agent = static_cast<Agent>(2 * n + i);
  }
  warps_.resize(static_cast<size_t>(n / 32));
  warp_clocks_.resize(static_cast<size_t>(n / 32));
  warpgroup_slots_.resize(static_cast<size_t>((n + 127) / 128));
  warpgroups_.resize(static_cast<size_t>((n + 127) / 128));
  for (size_t i = 0; i < warpgroups_.size(); ++i) {
    warpgroups_[i].agent = static_cast<Agent>(3 * static_cast<size_t>(n) + i);
  }
  shadow_.reset(config.shared_bytes);
}

uint64_t Block::random() {
  uint64_t z = random_state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

void Block::fiber_main(void* argument) {
  Fiber::entered();
  auto& thread = *static_cast<Thread*>(argument);
  Block& block = *thread.block;
  try {
    (*block.body_)();
    block.check_finished();
  } catch (...) {
    if (!block.error_) block.error_ = std::current_exception();
  }
  thread.state = Thread::State::kDone;
  Fiber::switch_to(thread.fiber, block.scheduler_, true);
}

int64_t Block::number() const {
  const Index3 &i = config_.block, &n = config_.grid;
  return i.x + int64_t{n.x} * (i.y + int64_t{n.y} * i.z);
}

void Block::start(const std::function<void()>& body) {
  body_ = &body;
  live_ = threads_.size();
  stacks_.reserve(threads_.size());
  for (Thread& t : threads_) {
    t.fiber.start(&Block::fiber_main, &t, stacks_.stack(static_cast<size_t>(t.index)), FiberStacks::kBytes);
    ready_.push_back(t.index);
  }
}

bool Block::step() {
  Block* outer = current_block;
  current_block = this;
  polling_ = false;
  try {
    if (config_.schedule.completion == Completion::kRandom && random() % 4 == 0) step_async();
    if (ready_.empty()) {
      if (!force_transaction()) report_deadlock();
    } else {
      const size_t pick = random() % ready_.size();
      running_ = &threads_[static_cast<size_t>(ready_[pick])];
      ready_[pick] = ready_.back();
      ready_.pop_back();
      Fiber::switch_to(scheduler_, running_->fiber);
      if (running_->state == Thread::State::kDone) --live_, grid_.polls = 0;
    }
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }
  current_block = outer;
  if (error_) std::rethrow_exception(error_);
  return live_ > 0;
}

void Block::finish() {
  int64_t most = 0;
  for (const Thread& t : threads_) {
    counters_.barriers += t.barriers;
    most = std::max(most, t.barriers);
  }
  counters_.max_thread_barriers = std::max(counters_.max_thread_barriers, most);
  grouper_.flush();
}

void Block::block_self(const char* reason, const Where& where) {
  Thread& self = *running_;
  self.state = Thread::State::kBlocked;
  self.waiting_for = reason, self.where = where;
  Fiber::switch_to(self.fiber, scheduler_);
}

void Block::make_ready(int thread) {
  threads_[static_cast<size_t>(thread)].state = Thread::State::kReady;
  ready_.push_back(thread);
}

void Block::fail(Fault fault, const std::string& what, const Where& where) {
  const std::string file = where.file_name();
  throw EmulationError(
      fault, std::string(fault_name(fault)) + " in kernel " + config_.kernel + ", block (" +
                 std::to_string(config_.block.x) + ", " + std::to_string(config_.block.y) + ", " +
                 std::to_string(config_.block.z) + "), thread " + std::to_string(running_ ? running_->index : -1) +
                 ", " + file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line()) + ": " + what);
}

void Block::collective(CollectiveSlot& slot, int first, int size, const char* name, void* argument, Collective execute,
                       const Where& where) {
  Thread& self = *running_;
  if (slot.arrived == 0) {
    slot.name = name, slot.line = where.line();
  } else if (slot.name != name || slot.line != where.line()) {
    fail(Fault::kDivergence,
         std::string(name) + ", while other lanes are at " + slot.name + " in line " + std::to_string(slot.line),
         where);
  }
  slot.arguments[static_cast<size_t>(self.index - first)] = argument;
  if (++slot.arrived < size) {
    block_self(name, where);
    return;
  }
  slot.arrived = 0;
  execute(*this, slot.arguments.data(), where);
  for (int i = first; i < first + size; ++i) {
    if (i != self.index) make_ready(i);
  }
}

void Block::warp_collective(const char* name, void* argument, Collective execute, const Where& where) {
  const int warp = running_->index / 32;
  collective(warps_[static_cast<size_t>(warp)], warp * 32, 32, name, argument, execute, where);
}

void Block::warpgroup_collective(const char* name, void* argument, Collective execute, const Where& where) {
  const int group = running_->index / 128;
  if (group * 128 + 128 > n_threads()) fail(Fault::kLaunch, "a warpgroup needs 128 threads", where);
  collective(warpgroup_slots_[static_cast<size_t>(group)], group * 128, 128, name, argument, execute, where);
}

// A thread that ends must have waited for what it started: shared memory and registers are gone afterwards.
void Block::check_finished() {
  Thread& t = *running_;
  const Where here = t.where;
  if (t.copies.unfinished()) fail(Fault::kUnfinishedCopies, "cp.async without a wait at the end of the thread", here);
  if (!t.wgmma_registers.empty()) fail(Fault::kUnfinishedCopies, "wgmma without a wait at the end of the thread", here);
  if (t.bulk_stores.unfinished()) fail(Fault::kUnfinishedCopies, "bulk store may still read at the end", here);
  while (!t.bulk_stores.ops.empty()) {
    advance(t.bulk_stores.ops.front(), true);
    t.bulk_stores.ops.pop_front();
  }
  bool last = true;
  for (const Thread& other : threads_) last = last && (&other == &t || other.state == Thread::State::kDone);
  if (!last) return;
  if (!transactions_.empty()) fail(Fault::kUnfinishedCopies, "the block ends with tensor loads in flight", here);
  for (size_t i = 0; i < barriers_.size(); ++i) {
    if (barriers_[i].arrived != 0) {
      fail(Fault::kBarrierCount,
           "barrier " + std::to_string(i) + " ends with " + std::to_string(barriers_[i].arrived) + " of " +
               std::to_string(barriers_[i].count) + " threads arrived",
           barriers_[i].where);
    }
  }
}

void Block::report_deadlock() {
  std::string who;
  int shown = 0;
  const Thread* first = nullptr;
  for (const Thread& t : threads_) {
    if (t.state != Thread::State::kBlocked) continue;
    if (!first) first = &t;
    if (++shown > 4) continue;
    who += (shown > 1 ? "; " : "") + std::string("thread ") + std::to_string(t.index) + " waits at " + t.waiting_for +
           ", line " + std::to_string(t.where.line());
  }
  running_ = nullptr;
  fail(Fault::kDeadlock, std::to_string(shown) + " threads wait for ever: " + who, first ? first->where : Where());
}

std::string Block::agent_name(Agent agent) const {
  const Agent n = static_cast<Agent>(threads_.size());
  if (agent < n) return "thread " + std::to_string(agent);
  if (agent < 2 * n) return "cp.async of thread " + std::to_string(agent - n);
  if (agent < 3 * n) return "bulk store of thread " + std::to_string(agent - 2 * n);
  if (agent < 3 * n + warpgroups_.size()) return "wgmma of warpgroup " + std::to_string(agent - 3 * n);
  return "a tensor load";
}

}  // namespace qwen3::cuda::emulate
