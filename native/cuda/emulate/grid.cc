#include "cuda/emulate/grid.h"

#include <algorithm>

namespace qwen3::cuda::emulate {

uint32_t& Grid::generation() {
  static thread_local uint32_t number = 0;
  return number;
}

uint32_t& Grid::first_unfinished() {
  static thread_local uint32_t number = 1;  // words that nobody wrote say 0
  return number;
}

Grid::Pages& Grid::pages() {
  static thread_local Pages all;
  return all;
}

Grid::Page& Grid::find_page(uintptr_t number) {
  // The last few pages are at hand: threads of a block walk the same ones. Pages do not move.
  struct Recent {
    uintptr_t number = ~uintptr_t{0};
    Page* page = nullptr;
  };
  static thread_local std::array<Recent, 64> recent;
  Recent& entry = recent[number % recent.size()];
  if (entry.number != number) {
    Pages& all = pages();
    // Launches that overlap keep theirs: then the next look is worth it when there are twice as many.
    static size_t most = kMostPages;
    if (all.size() > most) {
      std::erase_if(all, [](const auto& old) { return old.second.generation < first_unfinished(); });
      most = std::max(kMostPages, all.size() * 2);
      recent.fill({});
    }
    entry = {number, &all[number]};
  }
  entry.page->generation = generation();
  return *entry.page;
}

Grid::Cell Grid::cell_of(const Access& as) {
  Cell cell;
  cell.launch = generation(), cell.block = static_cast<uint32_t>(as.block), cell.time = as.time;
  cell.agent = static_cast<uint16_t>(as.agent), cell.line = as.line & 0x7fffu, cell.atomic = as.atomic ? 1 : 0;
  return cell;
}

// visit(page, first cell, end of the cells).
template <class Visit>
void Grid::for_each_page(uintptr_t address, size_t bytes, Visit visit) {
  constexpr uintptr_t kCells = kPageBytes / 2;
  const uintptr_t end = (address + bytes + 1) / 2;
  for (uintptr_t at = address / 2; at < end;) {
    const uintptr_t stop = std::min(end, (at / kCells + 1) * kCells);
    visit(find_page(at / kCells), at % kCells, at % kCells + (stop - at));
    at = stop;
  }
}

bool Grid::written_before(uintptr_t address, size_t bytes) {
  bool found = false;
  for_each_page(address, bytes, [&](Page& page, uintptr_t first, uintptr_t end) {
    for (uintptr_t i = first; page.writers && i < end; ++i) {
      const uint32_t launch = (*page.writers)[i];
      found = found || (launch >= first_unfinished() && launch < generation());
    }
  });
  return found;
}

bool Grid::ordered(const Cell& cell, const Access& as, const VectorClock& seen) {
  const int64_t block = cell.block;
  if (cell.launch != generation() || (as.atomic && cell.atomic)) return true;
  if (block == as.block) return cell.agent == as.agent || seen.at(cell.agent) >= cell.time;
  return seen.at(block, cell.agent) >= cell.time;
}

Grid::Access Grid::described(const Cell& cell) {
  return {cell.block, cell.agent, cell.time, cell.line, cell.atomic != 0};
}

std::optional<Grid::Conflict> Grid::read(uintptr_t address, size_t bytes, const Access& as, const VectorClock& seen) {
  std::optional<Conflict> found;
  const Cell mine = cell_of(as);
  for_each_page(address, bytes, [&](Page& page, uintptr_t first, uintptr_t end) {
    for (uintptr_t i = first; page.written && i < end; ++i) {
      const Cell& cell = (*page.written)[i];
      if (!found && !ordered(cell, as, seen)) found = {described(cell), true};
    }
    if (!page.read) page.read = std::make_unique<Cells>();
    std::fill(page.read->begin() + static_cast<std::ptrdiff_t>(first),
              page.read->begin() + static_cast<std::ptrdiff_t>(end), mine);
  });
  return found;
}

std::optional<Grid::Conflict> Grid::write(uintptr_t address, size_t bytes, const Access& as, const VectorClock& seen) {
  std::optional<Conflict> found;
  const Cell mine = cell_of(as);
  for_each_page(address, bytes, [&](Page& page, uintptr_t first, uintptr_t end) {
    if (!page.written) page.written = std::make_unique<Cells>();
    if (!page.writers) page.writers = std::make_unique<std::array<uint32_t, kPageBytes / 2>>();
    std::fill(page.writers->begin() + static_cast<std::ptrdiff_t>(first),
              page.writers->begin() + static_cast<std::ptrdiff_t>(end), generation());
    for (uintptr_t i = first; i < end; ++i) {
      Cell& cell = (*page.written)[i];
      if (!found && !ordered(cell, as, seen)) found = {described(cell), true};
      if (!found && page.read && !ordered((*page.read)[i], as, seen)) found = {described((*page.read)[i]), false};
      cell = mine;
    }
  });
  return found;
}

}  // namespace qwen3::cuda::emulate
