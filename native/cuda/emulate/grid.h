#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "cuda/emulate/clock.h"

namespace qwen3::cuda::emulate {

// What the blocks of one launch share: who wrote and who last read each word of global memory, and the words through
// which blocks synchronise. Blocks of a launch are not ordered by themselves: of two accesses to a word by different
// blocks, one a write, a release (fence, then atomic) and an acquire (atomic or volatile load, then fence) of one word
// must lie between; of two by threads of one block, a barrier. Of several readers the last is kept: that of others is
// found where the blocks run the other way round (all early: ascending, all late: descending).
class Grid {
 public:
  struct Access {
    int64_t block = 0;
    Agent agent = 0;
    uint32_t time = 0;
    unsigned line = 0;
    bool atomic = false;
  };
  struct Conflict {
    Access other;
    bool other_wrote = false;
  };
  explicit Grid(bool overlaps_previous = false) {
    ++generation();
    if (!overlaps_previous) first_unfinished() = generation();
  }
  Grid(const Grid&) = delete;
  Grid& operator=(const Grid&) = delete;

  // The access that is not ordered before this one, if any; records this one.
  std::optional<Conflict> read(uintptr_t address, size_t bytes, const Access& as, const VectorClock& seen);
  std::optional<Conflict> write(uintptr_t address, size_t bytes, const Access& as, const VectorClock& seen);

  // What was released at a word; acquired by those who read it.
  VectorClock::Foreign& released(uintptr_t address) { return released_[address]; }
  const VectorClock::Foreign* find_released(uintptr_t address) const {
    const auto it = released_.find(address);
    return it == released_.end() ? nullptr : &it->second;
  }

  // Whether a kernel that this one may overlap with wrote there: the one ahead, and those ahead of it that were not
  // known to have ended when it let this one begin.
  static bool written_before(uintptr_t address, size_t bytes);
  // This launch is over. If it let the next one begin only when it had waited for those before, they have ended by
  // then.
  void end() {
    if (!launched_early) first_unfinished() = generation();
  }
  // What was launched so far has ended: memory was given back.
  static void all_ended() { first_unfinished() = generation() + 1; }
  bool waited = false;          // some thread executed griddepcontrol.wait
  bool launched_early = false;  // some thread executed griddepcontrol.launch_dependents without having heard of a wait

  // Polls since anything happened that could end them.
  int64_t polls = 0;

 private:
  struct Cell {
    uint32_t launch = 0;  // generation of the access; another one: nobody did in this launch
    uint32_t block = 0;
    uint32_t time = 0;
    uint16_t agent = 0;
    uint16_t line : 15 = 0, atomic : 1 = 0;
  };
  static constexpr size_t kPageBytes = 4096, kMostPages = 8192;
  // Cells of two bytes: rows of bf16 numbers may meet within a word.
  using Cells = std::array<Cell, kPageBytes / 2>;
  struct Page {
    uint32_t generation = 0;                                        // the newest launch that touched it
    std::unique_ptr<Cells> written, read;                           // null: nobody did in this page
    std::unique_ptr<std::array<uint32_t, kPageBytes / 2>> writers;  // the newest launch that wrote each
  };
  using Pages = std::unordered_map<uintptr_t, Page>;
  // Pages are kept from launch to launch: a generation in every cell is cheaper than clearing them.
  static uint32_t& generation();
  static uint32_t& first_unfinished();
  static Pages& pages();
  static Page& find_page(uintptr_t number);
  static Cell cell_of(const Access& as);
  template <class Visit>
  static void for_each_page(uintptr_t address, size_t bytes, Visit visit);
  static bool ordered(const Cell& cell, const Access& as, const VectorClock& seen);
  static Access described(const Cell& cell);
  std::map<uintptr_t, VectorClock::Foreign> released_;
};

}  // namespace qwen3::cuda::emulate
