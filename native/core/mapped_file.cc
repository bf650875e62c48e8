#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#if defined(__linux__) && !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22  // Linux 5.14; older C libraries do not name it
#endif

namespace qwen3 {

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path, std::string* problem) {
  int fd;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // not waiting for the writer of a FIFO
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    *problem = std::strerror(errno);
    return nullptr;
  }
  struct stat info;
  void* data = MAP_FAILED;
  if (::fstat(fd, &info) != 0) {
    *problem = std::strerror(errno);
  } else if (!S_ISREG(info.st_mode) || info.st_size <= 0) {
    *problem = "not a regular file, or empty";
  } else if (info.st_uid != ::geteuid() && info.st_uid != 0) {
    *problem = "it belongs to another user";
  } else {
    data = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) *problem = std::strerror(errno);
  }
  ::close(fd);
  if (data == MAP_FAILED) return nullptr;
  const size_t size = static_cast<size_t>(info.st_size);
  try {
    return std::shared_ptr<const MappedFile>(new MappedFile(data, size));
  } catch (...) {
    ::munmap(data, size);
    throw;
  }
}

MappedFile::~MappedFile() {
  ::munmap(data_, size_);
}

bool MappedFile::populate(int64_t offset, int64_t bytes) const {
#if defined(MADV_POPULATE_READ)
  const int64_t page = ::sysconf(_SC_PAGESIZE), begin = offset / page * page;
  char* at = static_cast<char*>(data_) + begin;
  int result;
  do {
    result = ::madvise(at, static_cast<size_t>(offset + bytes - begin), MADV_POPULATE_READ);
  } while (result != 0 && errno == EINTR);
  return result == 0 || errno == EINVAL;  // EINVAL: a kernel that does not know it
#else
  (void)offset, (void)bytes;
  return true;
#endif
}

}  // namespace qwen3
