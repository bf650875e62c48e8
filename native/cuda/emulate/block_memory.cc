// Checked accesses to shared and global memory.

#include <algorithm>
#include <cstring>

#include "cuda/emulate/block.h"
#include "cuda/emulate/global_memory.h"

namespace qwen3::cuda::emulate {

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
