#pragma once

#include <cstdint>
#include <string>

namespace qwen3 {

// A regular file opened for positional reads. Reads use pread and never map the file: a file that shrinks while it is
// read gives an Error and no SIGBUS. One reader may be used from several threads.
class FileReader {
 public:
  // Throws Error(kBadModelFile, path) when the path cannot be opened or is no regular file.
  explicit FileReader(std::string path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // bytes, at the time of opening
  // Fills out[0, bytes) from `offset`. Throws Error(kBadModelFile, path) on a failed read or when the file ends early.
  void read(int64_t offset, int64_t bytes, void* out) const;

 private:
  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
};

}  // namespace qwen3
