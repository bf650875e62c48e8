#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace qwen3::cuda::emulate {

// What one launch did. Sectors are 32 bytes of global memory, counted per warp instruction: lanes that read the same
// sector in one instruction count it once. A wavefront is one pass over the 32 banks of shared memory.
struct Counters {
  std::string kernel;
  bool overlaps_previous = false;  // launched as a programmatic dependent
  int64_t blocks = 0, threads = 0;
  int64_t global_read_bytes = 0, global_written_bytes = 0;
  int64_t global_read_sectors = 0, global_written_sectors = 0;
  int64_t distinct_sectors_read = 0;  // each counted once however often it was read: the minimum of this launch
  int64_t tma_read_sectors = 0;       // the part of global_read_sectors that tensor copies made
  int64_t shared_accesses = 0;        // warp instructions
  int64_t bank_conflicts = 0;         // wavefronts beyond those that the bytes need
  int64_t matrix_instructions = 0, matrix_flops = 0;
  int64_t barriers = 0;             // per thread: bar.sync, bar.arrive, mbarrier waits
  int64_t max_thread_barriers = 0;  // the same, of the thread that had most
  // Source line -> conflicts, so that a test can say where they come from.
  std::unordered_map<int, int64_t> conflicts_by_line;
};

// Wavefronts of one warp's shared access: per pass of 32, 16 or 8 lanes (4, 8, 16 bytes each), the most distinct words
// that fall into one bank. lanes: a bit for each that takes part; addresses: [32].
int64_t shared_wavefronts(const uint32_t* addresses, uint32_t lanes, int bytes);

// Collects what single lanes do into warp instructions: the k-th execution of a source line by each lane of a warp is
// one instruction. Lanes that never come (divergence) leave it incomplete; flush() counts what is there.
class WarpGrouper {
 public:
  explicit WarpGrouper(Counters& counters) : counters_(counters) {}
  void shared_access(int warp, int lane, int line, uint32_t address, int bytes);
  void global_access(int warp, int lane, int line, uint64_t address, int bytes, bool write);
  void flush();
  std::unordered_set<uint64_t>& sectors_read() { return sectors_read_; }

 private:
  struct Instruction {
    int n = 0, bytes = 0;
    bool write = false;
    uint32_t lanes = 0;  // which have come
    std::array<uint64_t, 32> address{};
  };
  struct Site {
    std::array<uint32_t, 32> seen{};
    uint32_t done = 0;  // instructions before waiting.front()
    std::deque<Instruction> waiting;
    int line = 0;
  };
  Instruction& place(std::unordered_map<uint64_t, Site>& sites, int warp, int lane, int line, int bytes, bool write,
                     uint64_t address, Site** site);
  void count_shared(const Site& site, const Instruction& instruction);
  void count_global(const Instruction& instruction);

  Counters& counters_;
  std::unordered_map<uint64_t, Site> shared_, global_;
  std::unordered_set<uint64_t> sectors_read_;
};

}  // namespace qwen3::cuda::emulate
