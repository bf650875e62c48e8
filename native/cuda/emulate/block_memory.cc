// Checked accesses to shared and global memory.

#include <algorithm>
#include <cstring>

#include "cuda/emulate/block.h"
#include "cuda/emulate/global_memory.h"

namespace qwen3::cuda::emulate {
namespace {

void join_times(VectorClock::Foreign& into, const VectorClock::Foreign& other) {
  for (const auto& [block, times] : other) {
    VectorClock::Times& mine = into[block];
    if (mine.size() < times.size()) mine.resize(times.size(), 0);
    for (size_t i = 0; i < times.size(); ++i) mine[i] = std::max(mine[i], times[i]);
  }
}

}  // namespace

void Block::check_shared(uint32_t address, uint32_t bytes, uint32_t alignment, const Where& where) {
  if (address % alignment != 0) {
    fail(Fault::kSharedAlignment,
         "address " + std::to_string(address) + " is not a multiple of " + std::to_string(alignment), where);
  }
  if (address > shadow_.bytes() || bytes > shadow_.bytes() - address) {
    fail(Fault::kSharedBounds,
         "bytes " + std::to_string(address) + " to " + std::to_string(uint64_t{address} + bytes) + " of " +
             std::to_string(shadow_.bytes()),
         where);
  }
}

void Block::check_global(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address % alignment != 0) {
    fail(Fault::kGlobalAlignment, std::to_string(bytes) + "-byte access", where);
  }
  if (!GlobalMemory::device().find(address, bytes)) {
    const GlobalMemory::Range* before = GlobalMemory::device().find(address - bytes, 1);
    fail(Fault::kGlobalBounds,
         std::to_string(bytes) + "-byte access" + (before ? " behind the end of " + before->name : ""), where);
  }
}

void Block::check_global_race(const void* pointer, size_t bytes, const SharedShadow::Access& as, bool write,
                              bool atomic, const Where& where) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (config_.overlaps_previous) check_dependency(address, bytes, write, where);
  const Grid::Access access{number(), as.agent, as.time, where.line(), atomic};
  const auto found = write ? grid_.write(address, bytes, access, running_->clock)
                           : grid_.read(address, bytes, access, running_->clock);
  if (write) grid_.polls = 0;
  if (!found) return;
  const Grid::Access& other = found->other;
  fail(Fault::kGlobalRace,
       std::string(atomic  ? "the atomic"
                   : write ? "the write"
                           : "the read") +
           " by " + agent_name(as.agent) + " is not ordered after the " +
           (!found->other_wrote ? "read"
            : other.atomic      ? "atomic"
                                : "write") +
           " by " + (other.block == number() ? agent_name(other.agent) : "block " + std::to_string(other.block)) +
           " in line " + std::to_string(other.line),
       where);
}

// Whether somebody whom this thread has heard of since waited for the kernels before.
bool Block::heard_of_wait() const {
  return std::any_of(dependency_waits_.begin(), dependency_waits_.end(), [&](const auto& wait) {
    const auto& [agent, time] = wait;
    return agent == static_cast<Agent>(running_->index) || running_->clock.at(agent) >= time;
  });
}

// Programmatic dependent launch: until it has heard of a wait a thread may read what no kernel writes that may still
// run, weights for instance, and write nothing: they may still read it.
void Block::check_dependency(uintptr_t address, size_t bytes, bool write, const Where& where) {
  if (heard_of_wait()) return;
  if (write) fail(Fault::kDependency, "a write", where);
  if (grid_.written_before(address, bytes)) fail(Fault::kDependency, "a read of what an earlier kernel wrote", where);
}

void Block::dependency_launch() {
  if (config_.overlaps_previous && !heard_of_wait()) grid_.launched_early = true;
}

void Block::dependency_wait() {
  Thread& self = *running_;
  dependency_waits_.emplace_back(static_cast<Agent>(self.index), self.time);
  self.clock.set(static_cast<Agent>(self.index), ++self.time);
  grid_.waited = true;
}

void Block::global_read(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where) {
  check_global(pointer, bytes, alignment, where);
  check_global_race(pointer, bytes, own_access(where), false, false, where);
}

void Block::global_write(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where) {
  check_global(pointer, bytes, alignment, where);
  check_global_race(pointer, bytes, own_access(where), true, false, where);
}

void Block::global_atomic(const void* pointer, uint32_t bytes, const Where& where) {
  check_global(pointer, bytes, bytes, where);
  check_global_race(pointer, bytes, own_access(where), true, true, where);
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (const auto* released = grid_.find_released(address)) join_times(running_->unfenced, *released);
  release_at(address);
}

void Block::global_poll(const void* pointer, uint32_t bytes, uint32_t alignment, const Where& where) {
  constexpr int64_t kMostPolls = 200000;
  check_global(pointer, bytes, alignment, where);
  if (++grid_.polls > kMostPolls) fail(Fault::kDeadlock, "a word is polled that nobody will change", where);
  polling_ = true;
  make_ready(running_->index);
  Fiber::switch_to(running_->fiber, scheduler_);
  check_global_race(pointer, bytes, own_access(where), false, true, where);
  if (const auto* released = grid_.find_released(reinterpret_cast<uintptr_t>(pointer))) {
    join_times(running_->unfenced, *released);
  }
}

// Both halves of fence.acq_rel.gpu: what this thread did is published by its next atomic, what it read from atomics so
// far is known from here on.
void Block::device_fence() {
  Thread& self = *running_;
  if (!self.unfenced.empty()) {
    self.clock.join_foreign(self.unfenced);
    self.unfenced.clear();
  }
  self.fenced = self.clock;
  self.clock.set(static_cast<Agent>(self.index), ++self.time);
}

// An atomic publishes what its thread knew at its own last fence, other threads' work that a barrier brought included
// (PTX ISA, memory consistency model: a release pattern is a fence and a strong write of one thread; fences are
// cumulative).
void Block::release_at(uintptr_t address) {
  const Thread& self = *running_;
  VectorClock::Times times(threads_.size() * 3 + warpgroups_.size(), 0);
  for (size_t agent = 0; agent < self.fenced.times().size() && agent < times.size(); ++agent) {
    times[agent] = self.fenced.at(static_cast<Agent>(agent));
  }
  VectorClock::Foreign mine;
  if (self.fenced.foreign()) mine = *self.fenced.foreign();
  mine[number()] = std::move(times);
  join_times(grid_.released(address), mine);
}

// The async proxy sees generic writes only when their thread executed fence.proxy.async after them, and the issuer
// knows of that fence.
bool Block::proxy_fenced(const SharedShadow::Cell& cell, const VectorClock& seen) const {
  if (!cell.generic) return true;
  const auto n = static_cast<Agent>(threads_.size());
  Agent owner = cell.write.agent;
  uint32_t since = cell.write.time;
  if (owner >= n && owner < 2 * n) {  // cp.async: counts from the wait of its thread
    owner -= n;
    const auto& waited = threads_[owner].copies.waited;
    const auto it = std::find_if(waited.begin(), waited.end(), [&](const auto& w) { return w.first >= since; });
    if (it == waited.end()) return false;
    since = it->second;
  }
  const auto& fences = threads_[owner].fences;
  const auto fence = std::upper_bound(fences.begin(), fences.end(), since);
  return fence != fences.end() && seen.at(owner) >= *fence;
}

void Block::report_conflict(const SharedShadow::Found& found, const char* what, const SharedShadow::Access& as,
                            const Where& where) {
  using Conflict = SharedShadow::Conflict;
  const std::string place = "shared byte " + std::to_string(found.address);
  if (found.conflict == Conflict::kUninitialised) fail(Fault::kUninitialised, place, where);
  const char* other = found.conflict == Conflict::kWriteAfterRead ? "the read" : "the write";
  fail(Fault::kRace,
       place + ": " + what + " by " + agent_name(as.agent) + " is not ordered after " + other + " by " +
           agent_name(found.other.agent) + " in line " + std::to_string(found.other.line),
       where);
}

void Block::mark_read(uint32_t address, uint32_t bytes, const SharedShadow::Access& as, const VectorClock& seen,
                      bool async_proxy, const Where& where) {
  const auto found = shadow_.read(address, bytes, as, seen);
  if (found.conflict != SharedShadow::Conflict::kNone) report_conflict(found, "the read", as, where);
  if (!async_proxy) return;
  for (uint32_t a = address; a < address + bytes; a += 2) {
    const auto& cell = shadow_.cell(a);
    if (!proxy_fenced(cell, seen)) {
      fail(Fault::kProxyFence,
           "shared byte " + std::to_string(a) + " was written by " + agent_name(cell.write.agent) + " in line " +
               std::to_string(cell.write.line),
           where);
    }
  }
}

void Block::mark_write(uint32_t address, uint32_t bytes, const SharedShadow::Access& as, const VectorClock& seen,
                       bool generic, const Where& where) {
  const auto found = shadow_.write(address, bytes, as, seen, generic);
  if (found.conflict != SharedShadow::Conflict::kNone) report_conflict(found, "the write", as, where);
}

void Block::shared_read(uint32_t address, void* out, uint32_t bytes, const Where& where) {
  check_shared(address, bytes, bytes, where);
  mark_read(address, bytes, own_access(where), self().clock, false, where);
  grouper_.shared_access(self().index / 32, self().index % 32, static_cast<int>(where.line()), address,
                         static_cast<int>(bytes));
  std::memcpy(out, shadow_.data() + address, bytes);
}

void Block::shared_write(uint32_t address, const void* in, uint32_t bytes, const Where& where) {
  check_shared(address, bytes, bytes, where);
  mark_write(address, bytes, own_access(where), self().clock, true, where);
  grouper_.shared_access(self().index / 32, self().index % 32, static_cast<int>(where.line()), address,
                         static_cast<int>(bytes));
  std::memcpy(shadow_.data() + address, in, bytes);
}

// Atomics do not conflict with each other.
void Block::mark_atomic(uint32_t address, uint32_t bytes, const Where& where) {
  check_shared(address, bytes, bytes, where);
  const auto as = own_access(where);
  auto found = shadow_.read(address, bytes, as, self().clock, true);
  if (found.conflict == SharedShadow::Conflict::kNone) {
    found = shadow_.write(address, bytes, as, self().clock, true, true);
  }
  if (found.conflict != SharedShadow::Conflict::kNone) report_conflict(found, "the atomic", as, where);
}

uint32_t Block::shared_atomic_add(uint32_t address, uint32_t value, const Where& where) {
  mark_atomic(address, 4, where);
  uint32_t old;
  std::memcpy(&old, shadow_.data() + address, 4);
  const uint32_t sum = old + value;
  std::memcpy(shadow_.data() + address, &sum, 4);
  return old;
}

void Block::shared_atomic_add64(uint32_t address, uint64_t value, const Where& where) {
  mark_atomic(address, 8, where);
  uint64_t sum;
  std::memcpy(&sum, shadow_.data() + address, 8);
  sum += value;
  std::memcpy(shadow_.data() + address, &sum, 8);
}

}  // namespace qwen3::cuda::emulate
