#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/weight_plan.h"
#include "ops/backend.h"

namespace qwen3 {

// Packed weights kept in a file, mapped by the next load. Such a file is never trusted: everything about it but the
// packed bytes is computed from the model at hand and compared, and the bytes have checksums that are verified before
// any is used. Whatever differs (another version, layout, model, a cut or flipped file) means that it is written again.
//
//   head     kMagic [8] | version u32 | byte order u32 | file bytes u64 | identity bytes u64 | weights u64 |
//            checksum u64 of the whole head with this field 0
//   identity text, padded with zeros to 8 bytes
//   entries  [n_weights] of { offset, bytes, checksum u64; rows, cols i64; use, format u32 }
//   weights  in the order of the plan, each at a multiple of 4096
//
// A file is written under a temporary name, synced and renamed: readers see a whole file or none, and of several
// writers the last one wins. It is never written to afterwards (mode 0444).
class WeightFile {
 public:
  // `identity`: every input of packing beside the plan's shapes and formats, as text. `backend` and `plan` must outlive
  // this object. Throws Error(kInvalidArgument) on overflow.
  WeightFile(std::string path, const std::string& identity, const WeightPlan& plan, Backend& backend);

  struct Watch {
    std::function<void(int64_t done_bytes, int64_t total_bytes)> report;  // from several threads, one at a time
    const std::atomic<bool>* cancelled = nullptr;
  };
  using Weights = std::vector<std::shared_ptr<const Weight>>;

  // The weights, mapped; empty with the reason in `*problem` when the file is not there or not this model's. Throws
  // Error(kAborted), std::bad_alloc.
  Weights read(const Watch& watch, std::string* problem) const;
  // False with the reason in `*problem` when the file cannot be written; nothing is left then. Throws Error(kAborted),
  // std::bad_alloc.
  bool write(const Weights& weights, const Watch& watch, std::string* problem) const;

  const std::string& path() const { return path_; }
  int64_t bytes() const { return file_bytes_; }

 private:
  struct Entry {
    uint64_t offset, bytes, checksum;
    int64_t rows, cols;
    uint32_t use, format;
  };
  std::string head(const std::vector<Entry>& entries) const;

  std::string path_, identity_;
  const WeightPlan& plan_;
  Backend& backend_;
  std::vector<Entry> entries_;  // checksums 0
  int64_t file_bytes_ = 0;
};

}  // namespace qwen3
