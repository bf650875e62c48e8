#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace qwen3::cuda::emulate {

// Vector clocks (L. Lamport 1978; FastTrack, C. Flanagan and S. Freund, PLDI 2009). An agent is a thread, the
// asynchronous copies of a thread, the wgmma of a warpgroup, or the transactions of an mbarrier. An event (agent, time)
// happened before a thread's next event when the thread's clock shows at least that time for the agent.
using Agent = uint32_t;

class VectorClock {
 public:
  uint32_t at(Agent agent) const { return agent < times_.size() ? times_[agent] : 0; }
  void set(Agent agent, uint32_t time) {
    if (agent >= times_.size()) times_.resize(agent + 1, 0);
    times_[agent] = std::max(times_[agent], time);
  }
  void join(const VectorClock& other) {
    if (other.times_.size() > times_.size()) times_.resize(other.times_.size(), 0);
    uint32_t* a = times_.data();
    const uint32_t* b = other.times_.data();
    for (size_t i = 0; i < other.times_.size(); ++i) a[i] = std::max(a[i], b[i]);
  }
  // What both know: the view of an instruction that several warps issue together.
  void meet(const VectorClock& other) {
    times_.resize(std::min(times_.size(), other.times_.size()));
    for (size_t i = 0; i < times_.size(); ++i) times_[i] = std::min(times_[i], other.times_[i]);
  }
  void clear() { times_.clear(); }

 private:
  std::vector<uint32_t> times_;
};

}  // namespace qwen3::cuda::emulate
