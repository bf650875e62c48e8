#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace qwen3::cuda::emulate {

// Vector clocks (L. Lamport 1978; FastTrack, C. Flanagan and S. Freund, PLDI 2009). An agent is a thread, the
// asynchronous copies of a thread, the wgmma of a warpgroup, or the transactions of an mbarrier. An event (agent, time)
// happened before a thread's next event when the thread's clock shows at least that time for the agent.
using Agent = uint32_t;

class VectorClock {
 public:
  using Times = std::vector<uint32_t>;
  // What is known of other blocks of the launch: block -> times of its agents.
  using Foreign = std::map<int64_t, Times>;

  uint32_t at(Agent agent) const { return at(times_, agent); }
  uint32_t at(int64_t block, Agent agent) const {
    if (!foreign_) return 0;
    const auto it = foreign_->find(block);
    return it == foreign_->end() ? 0 : at(it->second, agent);
  }
  void set(Agent agent, uint32_t time) {
    if (agent >= times_.size()) times_.resize(agent + 1, 0);
    times_[agent] = std::max(times_[agent], time);
  }
  void join(const VectorClock& other) {
    if (other.times_.size() > times_.size()) times_.resize(other.times_.size(), 0);
    uint32_t* a = times_.data();
    const uint32_t* b = other.times_.data();
    for (size_t i = 0; i < other.times_.size(); ++i) a[i] = std::max(a[i], b[i]);
    if (other.foreign_ && other.foreign_ != foreign_) join_foreign(*other.foreign_);
  }
  // What both know: the view of an instruction that several warps issue together.
  void meet(const VectorClock& other) {
    times_.resize(std::min(times_.size(), other.times_.size()));
    for (size_t i = 0; i < times_.size(); ++i) times_[i] = std::min(times_[i], other.times_[i]);
    if (foreign_ != other.foreign_) foreign_.reset();
  }
  void clear() { times_.clear(), foreign_.reset(); }

  const Times& times() const { return times_; }
  const Foreign* foreign() const { return foreign_.get(); }
  void join_foreign(const Foreign& other) {
    auto joined = foreign_ ? std::make_shared<Foreign>(*foreign_) : std::make_shared<Foreign>();
    for (const auto& [block, times] : other) {
      Times& mine = (*joined)[block];
      if (mine.size() < times.size()) mine.resize(times.size(), 0);
      for (size_t i = 0; i < times.size(); ++i) mine[i] = std::max(mine[i], times[i]);
    }
    foreign_ = std::move(joined);
  }

 private:
  static uint32_t at(const Times& times, Agent agent) { return agent < times.size() ? times[agent] : 0; }
  Times times_;
  std::shared_ptr<const Foreign> foreign_;  // null for most kernels: blocks that do not synchronise
};

}  // namespace qwen3::cuda::emulate
