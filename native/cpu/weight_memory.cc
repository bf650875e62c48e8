#include "cpu/weight_memory.h"

#include <algorithm>
#include <utility>

#include "core/checked.h"

namespace qwen3::cpu {
namespace {
// Untouched memory costs nothing, so the size of a piece only bounds how many there are.
constexpr int64_t kPieceBytes = 64 << 20;
constexpr int64_t kAlignment = 64;
}  // namespace

Buffer WeightMemory::take(int64_t bytes) {
  const int64_t size = checked_add(bytes, kAlignment - 1) / kAlignment * kAlignment;
  std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Buffer> piece = piece_.lock();
  if (!piece || size > piece->bytes() - used_) {
    piece = std::make_shared<Buffer>(std::max(size, kPieceBytes), true);
    piece_ = piece;
    used_ = 0;
  }
  void* data = piece->as<char>() + std::exchange(used_, used_ + size);
  return Buffer(data, bytes, std::move(piece));
}

}  // namespace qwen3::cpu
