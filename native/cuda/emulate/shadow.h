#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/emulate/clock.h"

namespace qwen3::cuda::emulate {

// Shared memory and, for every two bytes of it, who wrote and who read them last. Accesses are checked against the
// clock of the thread that makes or issues them, not against the order in which this run happened to make them: a
// missing barrier is found on every schedule.
class SharedShadow {
 public:
  struct Access {
    Agent agent = 0;
    uint32_t time = 0;
    int line = 0;
  };
  struct Cell {
    uint32_t generation = 0;  // of the block; older: nobody wrote yet
    bool written = false, atomic = false, generic = false;
    Access write;
    std::vector<Access> reads;  // since the write, without those that happened before a later one
  };
  enum class Conflict : uint8_t { kNone, kUninitialised, kReadAfterWrite, kWriteAfterWrite, kWriteAfterRead };
  struct Found {
    Conflict conflict = Conflict::kNone;
    Access other;
    uint32_t address = 0;
  };

  void reset(uint32_t bytes);  // a new block: nothing is written
  uint32_t bytes() const { return bytes_; }
  std::byte* data() { return reinterpret_cast<std::byte*>(data_.data()); }

  // `seen`: the clock of the issuing thread. Marks the cells.
  Found read(uint32_t address, uint32_t bytes, const Access& access, const VectorClock& seen, bool atomic = false);
  Found write(uint32_t address, uint32_t bytes, const Access& access, const VectorClock& seen, bool generic,
              bool atomic = false);
  const Cell& cell(uint32_t address) const { return cells_[address / 2]; }
  uint32_t generation() const { return generation_; }

 private:
  Cell& fresh(uint32_t index);
  std::vector<uint64_t> data_;
  std::vector<Cell> cells_;
  uint32_t bytes_ = 0, generation_ = 0;
};

}  // namespace qwen3::cuda::emulate
