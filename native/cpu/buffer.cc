#include "cpu/buffer.h"

#include <cstdint>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

namespace qwen3::cpu {
namespace {
constexpr int64_t kMapFrom = 256 << 10;
constexpr int64_t kHugePage = 2 << 20;
constexpr std::align_val_t kAlignment{64};

// Zeroed memory from the system, on a huge page's boundary if `aligned`. Null when there is none.
void* map_pages(int64_t bytes, bool aligned) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  const int64_t spare = aligned ? kHugePage : 0;
  if (bytes > INT64_MAX - spare) return nullptr;
  void* mapped = mmap(nullptr, static_cast<size_t>(bytes + spare), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  if (!aligned) return mapped;
  char* begin = static_cast<char*>(mapped);
  const int64_t before = (kHugePage - static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin) % kHugePage)) % kHugePage;
  if (before > 0) munmap(begin, static_cast<size_t>(before));
  const int64_t page = sysconf(_SC_PAGESIZE), kept = (bytes + page - 1) / page * page;
  if (spare - before > kept - bytes) {
    munmap(begin + before + kept, static_cast<size_t>(bytes + spare - before - kept));
  }
  return begin + before;
}
}  // namespace

Buffer::Buffer(int64_t bytes, bool huge) : bytes_(bytes) {
  if (bytes < 0) throw std::bad_alloc();
  mapped_ = bytes >= kMapFrom;
  if (!mapped_) {
    data_ = ::operator new(static_cast<size_t>(bytes > 0 ? bytes : 1), kAlignment);
    std::memset(data_, 0, static_cast<size_t>(bytes));
    return;
  }
  data_ = map_pages(bytes, huge);
  if (!data_) throw std::bad_alloc();
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
