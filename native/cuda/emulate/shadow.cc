#include "cuda/emulate/shadow.h"

#include <algorithm>
#include <cstring>

namespace qwen3::cuda::emulate {

void SharedShadow::reset(uint32_t bytes) {
  bytes_ = bytes;
  ++generation_;
  data_.resize((bytes + 7) / 8);
  if (bytes > 0) std::memset(data_.data(), 0xff, data_.size() * 8);
  if (cells_.size() < bytes / 2 + 1) cells_.resize(bytes / 2 + 1);
}

SharedShadow::Cell& SharedShadow::fresh(uint32_t index) {
  Cell& cell = cells_[index];
  if (cell.generation != generation_) {
    cell.generation = generation_;
    cell.written = cell.atomic = cell.generic = false;
    cell.reads.clear();
  }
  return cell;
}

SharedShadow::Found SharedShadow::read(uint32_t address, uint32_t bytes, const Access& access, const VectorClock& seen,
                                       bool atomic) {
  Found found;
  for (uint32_t i = address / 2; i < (address + bytes + 1) / 2; ++i) {
    Cell& cell = fresh(i);
    if (!cell.written) return {Conflict::kUninitialised, {}, i * 2};
    if (cell.write.agent != access.agent && !(atomic && cell.atomic) && seen.at(cell.write.agent) < cell.write.time) {
      return {Conflict::kReadAfterWrite, cell.write, i * 2};
    }
    auto& reads = cell.reads;
    if (!reads.empty() && reads.back().agent == access.agent) {
      reads.back() = access;
      continue;
    }
    if (reads.size() >= 4) {
      std::erase_if(reads, [&](const Access& r) { return r.agent == access.agent || seen.at(r.agent) >= r.time; });
    }
    reads.push_back(access);
  }
  return found;
}

SharedShadow::Found SharedShadow::write(uint32_t address, uint32_t bytes, const Access& access, const VectorClock& seen,
                                        bool generic, bool atomic) {
  for (uint32_t i = address / 2; i < (address + bytes + 1) / 2; ++i) {
    Cell& cell = fresh(i);
    const bool both_atomic = atomic && cell.atomic;
    if (cell.written && cell.write.agent != access.agent && !both_atomic &&
        seen.at(cell.write.agent) < cell.write.time) {
      return {Conflict::kWriteAfterWrite, cell.write, i * 2};
    }
    for (const Access& r : cell.reads) {
      if (r.agent != access.agent && !both_atomic && seen.at(r.agent) < r.time) {
        return {Conflict::kWriteAfterRead, r, i * 2};
      }
    }
    cell.reads.clear();
    cell.written = true, cell.atomic = atomic, cell.generic = generic;
    cell.write = access;
  }
  return {};
}

}  // namespace qwen3::cuda::emulate
