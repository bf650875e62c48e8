#include "cpu/buffer.h"

#include <cstring>

#include <sys/mman.h>

namespace qwen3::cpu {
namespace {
constexpr int64_t kMapFrom = 256 << 10;
constexpr std::align_val_t kAlignment{64};
}  // namespace

Buffer::Buffer(int64_t bytes, bool huge) : bytes_(bytes) {
  if (bytes < 0) throw std::bad_alloc();
  mapped_ = bytes >= kMapFrom;
  if (!mapped_) {
    data_ = ::operator new(static_cast<size_t>(bytes > 0 ? bytes : 1), kAlignment);
    std::memset(data_, 0, static_cast<size_t>(bytes));
    return;
  }
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* mapped = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  data_ = mapped;
#if defined(MADV_HUGEPAGE)
  if (huge) madvise(data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a hint: refused is fine
#else
  (void)huge;
#endif
}

Buffer::~Buffer() {
  if (!data_ || owner_) return;
  if (mapped_) {
    munmap(data_, static_cast<size_t>(bytes_));
  } else {
    ::operator delete(data_, kAlignment);
  }
}

}  // namespace qwen3::cpu
