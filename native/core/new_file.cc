#include "core/new_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace qwen3 {
namespace {

namespace fs = std::filesystem;
constexpr std::chrono::hours kAbandoned{1};

// Unique among the processes of this machine, and of others that share the folder, with high probability.
std::string temporary_suffix() {
  static std::atomic<uint32_t> count{0};
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return "." + std::to_string(::getpid()) + "." + std::to_string(now) + "." + std::to_string(count++) + ".tmp";
}

}  // namespace

NewFile::NewFile(std::string path, int64_t bytes) : path_(std::move(path)), temporary_(path_ + temporary_suffix()) {
  std::error_code error;
  const fs::path folder = fs::path(path_).parent_path();
  if (!folder.empty()) fs::create_directories(folder, error);
  if (error) {
    fail("cannot make the folder " + folder.string(), error.value());
    return;
  }
  sweep();
  do {
    fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) {
    fail("cannot create " + temporary_, errno);
    return;
  }
  // Beyond this limit a write would raise SIGXFSZ, whose default is to end the process.
  struct rlimit limit;
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < static_cast<rlim_t>(bytes)) {
    fail("cannot reserve space for " + path_, EFBIG);
    return;
  }
#if defined(__linux__)
  int result;
  do {
    result = ::fallocate(fd_, 0, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EOPNOTSUPP && errno != ENOSYS) fail("cannot reserve space for " + path_, errno);
#endif
}

NewFile::~NewFile() {
  discard();
}

void NewFile::discard() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
  fd_ = -1;
}

bool NewFile::fail(const std::string& what, int error) {
  problem_ = what + ": " + std::strerror(error);
  discard();
  return false;
}

bool NewFile::write(int64_t offset, const void* data, int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0 && fd_ >= 0) {
    const ssize_t put = ::pwrite(fd_, from, static_cast<size_t>(bytes), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return fail("cannot write " + path_, put < 0 ? errno : ENOSPC);
    from += put, offset += put, bytes -= put;
  }
  return fd_ >= 0;
}

bool NewFile::commit() {
  if (fd_ < 0) return false;
  int result;
  do {
    result = ::fsync(fd_);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return fail("cannot write " + path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return fail("cannot rename " + temporary_, errno);
  ::close(fd_);
  fd_ = -1;
  // The name too is on the disk then; where a folder cannot be synced, the worst is that the file is missing later.
  const std::string folder = fs::path(path_).parent_path().string();
  const int folder_fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd >= 0) {
    ::fsync(folder_fd);
    ::close(folder_fd);
  }
  return true;
}

void NewFile::sweep() const {
  const fs::path target(path_);
  const std::string prefix = target.filename().string() + ".";
  std::error_code error;
  for (fs::directory_iterator at(target.parent_path().empty() ? "." : target.parent_path(), error), end;
       !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(".tmp")) continue;
    std::error_code unknown;
    const auto changed = fs::last_write_time(at->path(), unknown);
    if (unknown || fs::file_time_type::clock::now() - changed < kAbandoned) continue;
    fs::remove(at->path(), unknown);
  }
}

}  // namespace qwen3
