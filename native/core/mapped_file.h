#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace qwen3 {

// A regular file mapped for reading, shared with the page cache and with every other process that maps it. Unlinking or
// replacing the file (rename) leaves the mapping as it was. Truncating it in place does not: touching a page that is
// gone ends the process with SIGBUS, as it does with a program's shared libraries. So map only files that this library
// wrote itself and never rewrites.
class MappedFile {
 public:
  // Null with the reason in `*problem` when the file cannot be opened and mapped, is empty or no regular file, or
  // belongs to another user than this process's or root: such a file could be rewritten by somebody else.
  static std::shared_ptr<const MappedFile> open(const std::string& path, std::string* problem);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  // Brings [offset, offset + bytes) into memory. False when the disk fails or the file became shorter, where touching
  // the pages would raise SIGBUS; systems that cannot tell say true.
  bool populate(int64_t offset, int64_t bytes) const;

 private:
  MappedFile(void* data, size_t size) : data_(data), size_(size) {}
  void* data_;
  size_t size_;
};

}  // namespace qwen3
