#pragma once

#include <cstdint>
#include <string>

namespace qwen3 {

// A file that appears whole or not at all: written beside its place under a temporary name, then synced and renamed.
// Nothing throws but std::bad_alloc; after a failure every call is false and problem() says why. What was not committed
// is deleted by the destructor; temporary files that a killed process left are deleted by the next one after an hour.
class NewFile {
 public:
  // Makes the folder if need be, and reserves `bytes` so that a full disk is noticed at once.
  NewFile(std::string path, int64_t bytes);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  bool write(int64_t offset, const void* data, int64_t bytes);
  // Syncs and renames over whatever was there. The file can only be read from then on (mode 0444 less the umask).
  bool commit();
  const std::string& problem() const { return problem_; }

 private:
  bool fail(const std::string& what, int error);
  void sweep() const;
  void discard();

  std::string path_, temporary_, problem_;
  int fd_ = -1;
};

}  // namespace qwen3
