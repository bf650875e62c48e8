#include "cuda/emulate/counters.h"

#include <algorithm>

namespace qwen3::cuda::emulate {

int64_t shared_wavefronts(const uint32_t* addresses, uint32_t lanes, int bytes) {
  const int lanes_per_pass = bytes <= 4 ? 32 : 128 / bytes;
  const int words = std::max(1, bytes / 4);
  int64_t total = 0;
  for (int begin = 0; begin < 32; begin += lanes_per_pass) {
    std::array<std::array<uint32_t, 32>, 32> banks;  // the distinct words of each
    std::array<size_t, 32> n{};
    size_t most = 0;
    for (int i = begin; i < begin + lanes_per_pass; ++i) {
      if (!(lanes >> i & 1u)) continue;
      for (int w = 0; w < words; ++w) {
        const uint32_t word = addresses[i] / 4 + static_cast<uint32_t>(w), bank = word % 32;
        const auto end = banks[bank].begin() + static_cast<std::ptrdiff_t>(n[bank]);
        if (std::find(banks[bank].begin(), end, word) == end) banks[bank][n[bank]++] = word;
        most = std::max(most, n[bank]);
      }
    }
    total += static_cast<int64_t>(most);
  }
  return total;
}

WarpGrouper::Instruction& WarpGrouper::place(std::unordered_map<uint64_t, Site>& sites, int warp, int lane, int line,
                                             int bytes, bool write, uint64_t address, Site** found) {
  // A line may hold accesses of several sizes and both directions; they are different instructions.
  const uint64_t key = (static_cast<uint64_t>(warp) << 40) | (static_cast<uint64_t>(line) << 8) |
                       static_cast<uint64_t>(bytes * 2 + (write ? 1 : 0));
  Site& site = sites[key];
  site.line = line;
  const uint32_t index = site.seen[lane]++ - site.done;
  while (site.waiting.size() <= index) site.waiting.emplace_back();
  Instruction& instruction = site.waiting[index];
  instruction.bytes = bytes, instruction.write = write;
  instruction.address[static_cast<size_t>(lane)] = address;
  instruction.lanes |= 1u << lane;
  ++instruction.n;
  *found = &site;
  return instruction;
}

void WarpGrouper::count_shared(const Site& site, const Instruction& instruction) {
  std::array<uint32_t, 32> addresses;
  for (size_t i = 0; i < 32; ++i) addresses[i] = static_cast<uint32_t>(instruction.address[i]);
  const int lanes_per_pass = instruction.bytes <= 4 ? 32 : 128 / instruction.bytes;
  int64_t ideal = 0;  // passes with a lane in them
  for (int begin = 0; begin < 32; begin += lanes_per_pass) {
    const uint64_t pass = ((uint64_t{1} << lanes_per_pass) - 1) << begin;
    if (instruction.lanes & pass) ++ideal;
  }
  const int64_t conflicts = shared_wavefronts(addresses.data(), instruction.lanes, instruction.bytes) - ideal;
  ++counters_.shared_accesses;
  if (conflicts > 0) {
    counters_.bank_conflicts += conflicts;
    counters_.conflicts_by_line[site.line] += conflicts;
  }
}

void WarpGrouper::count_global(const Instruction& instruction) {
  std::array<uint64_t, 128> sectors;  // structs may take up to four each
  size_t n = 0;
  for (size_t i = 0; i < 32; ++i) {
    if (!(instruction.lanes >> i & 1u)) continue;
    const uint64_t end = instruction.address[i] + static_cast<uint64_t>(instruction.bytes);
    for (uint64_t sector = instruction.address[i] / 32; sector * 32 < end && n < sectors.size(); ++sector) {
      const auto last = sectors.begin() + static_cast<std::ptrdiff_t>(n);
      if (std::find(sectors.begin(), last, sector) == last) sectors[n++] = sector;
    }
  }
  const int64_t bytes = int64_t{instruction.n} * instruction.bytes;
  if (instruction.write) {
    counters_.global_written_bytes += bytes, counters_.global_written_sectors += static_cast<int64_t>(n);
  } else {
    counters_.global_read_bytes += bytes, counters_.global_read_sectors += static_cast<int64_t>(n);
    sectors_read_.insert(sectors.begin(), sectors.begin() + static_cast<std::ptrdiff_t>(n));
  }
}

void WarpGrouper::shared_access(int warp, int lane, int line, uint32_t address, int bytes) {
  Site* site;
  place(shared_, warp, lane, line, bytes, false, address, &site);
  while (!site->waiting.empty() && site->waiting.front().n == 32) {
    count_shared(*site, site->waiting.front());
    site->waiting.pop_front();
    ++site->done;
  }
}

void WarpGrouper::global_access(int warp, int lane, int line, uint64_t address, int bytes, bool write) {
  Site* site;
  place(global_, warp, lane, line, bytes, write, address, &site);
  while (!site->waiting.empty() && site->waiting.front().n == 32) {
    count_global(site->waiting.front());
    site->waiting.pop_front();
    ++site->done;
  }
}

void WarpGrouper::flush() {
  for (auto& [key, site] : shared_) {
    for (const Instruction& i : site.waiting) {
      if (i.n > 0) count_shared(site, i);
    }
  }
  for (auto& [key, site] : global_) {
    for (const Instruction& i : site.waiting) {
      if (i.n > 0) count_global(i);
    }
  }
  shared_.clear(), global_.clear();
}

}  // namespace qwen3::cuda::emulate
