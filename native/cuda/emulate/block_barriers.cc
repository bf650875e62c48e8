// Barriers, mbarriers and asynchronous work of a block.

#include <algorithm>

#include "cuda/emulate/block.h"

namespace qwen3::cuda::emulate {

// Publishes what the thread did so far; what it does next is not part of it.
void Block::release(Thread& thread, VectorClock& into) {
  into.join(thread.clock);
  thread.clock.set(static_cast<Agent>(thread.index), ++thread.time);
}

// bar.sync / bar.arrive id, count (PTX ISA, Parallel Synchronization and Communication: bar).
void Block::barrier(int id, int count, bool wait, const Where& where) {
  Thread& self = *running_;
  if (id < 0 || id > 15) fail(Fault::kBarrierCount, "barrier " + std::to_string(id) + " of 16", where);
  if (count <= 0 || count % 32 != 0 || count > n_threads()) {
    fail(Fault::kBarrierCount, std::to_string(count) + " of " + std::to_string(n_threads()) + " threads", where);
  }
  NamedBarrier& b = barriers_[static_cast<size_t>(id)];
  if (b.arrived > 0 && b.count != count) {
    fail(Fault::kBarrierCount,
         "this thread says " + std::to_string(count) + ", another said " + std::to_string(b.count) + " in line " +
             std::to_string(b.where.line()),
         where);
  }
  b.count = count, b.where = where;
  ++self.barriers;
  release(self, b.clock);
  if (++b.arrived < count) {
    if (!wait) return;
    b.waiting.push_back(self.index);
    block_self("barrier", where);
    return;  // the last one to arrive joined the clocks
  }
  for (const int i : b.waiting) {
    threads_[static_cast<size_t>(i)].clock.join(b.clock);
    make_ready(i);
  }
  if (wait) self.clock.join(b.clock);
  b.waiting.clear();
  b.clock.clear();
  b.arrived = 0;
}

void Block::warp_barrier(const Where& where) {
  Thread& self = *running_;
  release(self, warp_clocks_[static_cast<size_t>(self.index / 32)]);
  warp_collective(
      "__syncwarp", nullptr,
      [](Block& block, void**, const Where&) {
        VectorClock& joined = block.warp_clocks_[static_cast<size_t>(block.self().index / 32)];
        for (int lane = 0; lane < 32; ++lane) block.lane_thread(lane).clock.join(joined);
        joined.clear();
      },
      where);
}

void Block::proxy_fence() {
  Thread& self = *running_;
  self.clock.set(static_cast<Agent>(self.index), ++self.time);
  self.fences.push_back(self.time);
}

void Block::mbarrier_init(uint32_t address, uint32_t count, const Where& where) {
  check_shared(address, 8, 8, where);
  if (count == 0 || count > (1u << 20) - 1) fail(Fault::kMbarrier, "count " + std::to_string(count), where);
  mark_write(address, 8, own_access(where), running_->clock, true, where);
  if (mbarriers_.count(address)) fail(Fault::kMbarrier, "initialised twice", where);
  Mbarrier& b = mbarriers_[address];
  b.count = b.pending = count;
  b.agent = static_cast<Agent>(3 * threads_.size() + warpgroups_.size() + mbarriers_.size() - 1);
  b.init = own_access(where);
}

Block::Mbarrier& Block::usable(uint32_t address, const Where& where) {
  check_shared(address, 8, 8, where);
  const auto it = mbarriers_.find(address);
  if (it == mbarriers_.end()) fail(Fault::kMbarrier, "not initialised", where);
  const auto& init = it->second.init;
  if (running_->clock.at(init.agent) < init.time) {
    fail(Fault::kRace, "mbarrier used without being ordered after its initialisation", where);
  }
  return it->second;
}

// Phases complete when no arrival and no transaction is pending (PTX ISA, mbarrier: phase of the mbarrier object).
void Block::complete_phase_if_due(Mbarrier& b) {
  if (b.pending != 0 || b.transactions != 0) return;
  ++b.phase;
  b.pending = b.count;
  b.completed.join(b.arriving);
  b.completed.set(b.agent, b.phase);
  b.arriving.clear();
  for (const int i : b.waiting) make_ready(i);
  b.waiting.clear();
}

void Block::mbarrier_arrive(uint32_t address, uint32_t expect_bytes, const Where& where) {
  Mbarrier& b = usable(address, where);
  if (b.pending == 0) fail(Fault::kMbarrier, "more arrivals than the count of " + std::to_string(b.count), where);
  b.transactions += expect_bytes;
  if (b.transactions > (1 << 20) - 1) fail(Fault::kMbarrier, "transaction count beyond 2^20 - 1", where);
  release(*running_, b.arriving);
  --b.pending;
  complete_phase_if_due(b);
}

// mbarrier.try_wait.parity in a loop: true once the phase of this parity has completed.
void Block::mbarrier_wait(uint32_t address, uint32_t parity, const Where& where) {
  Thread& self = *running_;
  ++self.barriers;
  Mbarrier& b = usable(address, where);
  while ((b.phase & 1u) == parity) {
    b.waiting.push_back(self.index);
    block_self("mbarrier", where);
  }
  self.clock.join(b.completed);
}

SharedShadow::Access Block::transaction(uint32_t mbarrier, const Where& where) {
  Mbarrier& b = usable(mbarrier, where);
  // The async proxy must see the initialisation.
  const auto& fences = threads_[b.init.agent].fences;
  const auto fence = std::upper_bound(fences.begin(), fences.end(), b.init.time);
  if (fence == fences.end() || running_->clock.at(b.init.agent) < *fence) {
    fail(Fault::kProxyFence, "no fence between the mbarrier's initialisation and its use by a tensor load", where);
  }
  return {b.agent, b.phase + 1, static_cast<int>(where.line())};
}

void Block::add_transaction(uint32_t mbarrier, uint32_t bytes, std::function<void()> read, std::function<void()> write,
                            const Where& where) {
  usable(mbarrier, where);
  Transaction t;
  t.mbarrier = mbarrier, t.bytes = bytes, t.where = where;
  t.op.read = std::move(read), t.op.write = std::move(write);
  transactions_.push_back(std::move(t));
  if (config_.schedule.completion == Completion::kEarly) finish_transaction(transactions_.size() - 1);
}

void Block::advance(AsyncOp& op, bool to_end) {
  if (!op.was_read) {
    op.read();
    op.was_read = true;
    if (!to_end) return;
  }
  op.write();
}

void Block::finish_transaction(size_t i) {
  advance(transactions_[i].op, true);
  Mbarrier& b = mbarriers_.at(transactions_[i].mbarrier);
  b.transactions -= transactions_[i].bytes;
  const Where where = transactions_[i].where;
  transactions_.erase(transactions_.begin() + static_cast<std::ptrdiff_t>(i));
  if (b.pending == 0 && b.transactions < 0) fail(Fault::kMbarrier, "more bytes arrived than were expected", where);
  complete_phase_if_due(b);
}

bool Block::force_transaction() {
  if (transactions_.empty()) return false;
  finish_transaction(random() % transactions_.size());
  return true;
}

// One step of one randomly chosen operation in flight.
void Block::step_async() {
  if (!transactions_.empty() && random() % 2 == 0) {
    const size_t i = random() % transactions_.size();
    AsyncOp& op = transactions_[i].op;
    if (op.was_read) {
      finish_transaction(i);
    } else {
      advance(op, false);
    }
    return;
  }
  AsyncQueue* queue;
  if (random() % 2 == 0) {
    queue = &warpgroups_[random() % warpgroups_.size()];
  } else {
    Thread& t = threads_[random() % threads_.size()];
    queue = random() % 2 ? &t.copies : &t.bulk_stores;
  }
  if (queue->ops.empty()) return;
  // Operands may be read out of order, results appear in order.
  AsyncOp& any = queue->ops[random() % queue->ops.size()];
  if (!any.was_read) {
    advance(any, false);
  } else if (queue->ops.front().was_read) {
    advance(queue->ops.front(), true);
    queue->ops.pop_front();
  }
}

void Block::add_async(AsyncQueue& queue, std::function<void()> read, std::function<void()> write) {
  AsyncOp op;
  op.group = queue.issued = queue.committed + 1;
  op.read = std::move(read), op.write = std::move(write);
  queue.ops.push_back(std::move(op));
  if (config_.schedule.completion == Completion::kEarly) {
    advance(queue.ops.back(), true);
    queue.ops.pop_back();
  }
}

void Block::wait_groups(AsyncQueue& queue, uint32_t pending, bool reads_only) {
  Thread& self = *running_;
  if (queue.committed < pending) return;
  const uint32_t last = queue.committed - pending;
  for (AsyncOp& op : queue.ops) {
    if (op.group <= last && !op.was_read) advance(op, false);
  }
  while (!reads_only && !queue.ops.empty() && queue.ops.front().group <= last) {
    advance(queue.ops.front(), true);
    queue.ops.pop_front();
  }
  if (last == 0) return;
  self.clock.set(queue.agent, last);
  queue.waited.emplace_back(last, self.time);
}

}  // namespace qwen3::cuda::emulate
