#include "core/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/status.h"

namespace qwen3 {
namespace {

// Linux transfers at most 0x7ffff000 bytes a call; smaller pieces let several threads take turns on slow disks.
constexpr int64_t kMaxReadBytes = int64_t{1} << 26;

Error failure(const std::string& path, const std::string& what, int error) {
  return Error(ErrorCode::kBadModelFile, what + " " + path + ": " + std::strerror(error), path);
}

}  // namespace

FileReader::FileReader(std::string path) : path_(std::move(path)) {
  do {
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) throw failure(path_, "cannot open", errno);
  struct stat info;
  if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    throw Error(ErrorCode::kBadModelFile, path_ + " is not a regular file", path_);
  }
  size_ = static_cast<int64_t>(info.st_size);
}

FileReader::~FileReader() {
  ::close(fd_);
}

void FileReader::read(int64_t offset, int64_t bytes, void* out) const {
  if (offset < 0 || bytes < 0 || offset > size_ || bytes > size_ - offset) {
    throw Error(ErrorCode::kBadModelFile,
                "bytes " + std::to_string(offset) + " to " + std::to_string(offset) + " + " + std::to_string(bytes) +
                    " lie outside " + path_ + ", which has " + std::to_string(size_),
                path_);
  }
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got =
        ::pread(fd_, to, static_cast<size_t>(std::min(bytes, kMaxReadBytes)), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw failure(path_, "cannot read", errno);
    if (got == 0) throw Error(ErrorCode::kBadModelFile, path_ + " became shorter while it was read", path_);
    to += got;
    offset += got;
    bytes -= got;
  }
}

}  // namespace qwen3
