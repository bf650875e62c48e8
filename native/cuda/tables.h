#pragma once

// What a step needs on the device besides weights and activations: one sheet, built on the host in pinned memory and
// copied in one piece as far as it is used (a copy of a few bytes takes as long as one of a few thousand). Two sheets
// take turns, so that the next step's is written and copied while the device works on this one.

#include <array>
#include <vector>

#include "cuda/library.h"
#include "cuda/runtime.h"
#include "cuda/sampling.h"
#include "cuda/schedule.h"

namespace qwen3::cuda {

// The rows of one kernel class.
struct RowRange {
  int begin, count;
  bool decode;
};

// A step's tables on the device. In a bucket (tables of `rows` rows of which fewer may be real) every address and every
// number in here depends on the bucket alone.
struct StepView {
  int n_rows = 0, n_logits = 0;
  std::vector<RowRange> ranges;
  const int32_t* given = nullptr;  // tokens, or -1 - i (begin_step)
  RowMap rows{};
  const int32_t* logits_rows = nullptr;
  const int32_t* valid_rows = nullptr;  // in a bucket
  AttentionWork prefill{};
  DecodeWork decode{};
  const SamplingRow* sampling = nullptr;
  const TokenAdjustment* adjustments = nullptr;
};

class StepTables {
 public:
  // decode_grid: blocks per KV head, at most, that share the attention tiles of a bucket of fewer rows. prefill_grid:
  // persistent blocks that share those of prefill, or 0.
  StepTables(const HeadShape& heads, bool one_class, int decode_grid, int prefill_grid)
      : heads_(heads), one_class_(one_class), decode_grid_(decode_grid), prefill_grid_(prefill_grid) {}

  // Puts a step in the device's order: decoding sequences first, in each group as they came.
  void plan(const qwen3_cuda_batch& batch);
  bool decode_only() const { return ranges_.size() == 1 && ranges_[0].decode; }
  int n_rows() const { return static_cast<int>(row_of_.size()); }
  int n_partials() const { return schedule_.n_partials; }
  int32_t row_of(size_t device_row) const { return row_of_[device_row]; }

  // Room for what was planned, or for steps of so many rows, tiles, blocks and adjustments; whether the sheets moved.
  // Throws Error(kOutOfMemory) and stays as it was.
  bool reserve_planned(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket);
  bool reserve(int rows, size_t tiles, size_t blocks, size_t adjustments);

  // Writes the planned step into one of the sheets and copies it. bucket: 0, or at least n_rows() of a step
  // that only decodes; padding rows have no place in the cache.
  void upload(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket, int sheet, Stream stream);
  // Of the planned step, without a bucket.
  StepView view(const qwen3_cuda_batch& batch, int sheet) const;
  // Of a bucket, whose step is yet to come.
  StepView bucket_view(int bucket, int sheet) const;

 private:
  // The sheet: arrays that have an entry per row, then the tiles of decode. These places depend on the number of rows
  // alone. Behind them lies what is found by indices: tiles of prefill and who takes them, block tables, adjustments.
  struct Layout {
    size_t tokens, positions, slots, ropes, logits_rows, counts, sequences, sampling, tiles;
  };
  static Layout layout(int rows);
  int decode_blocks(int bucket) const;  // per KV head
  size_t sheet_bytes(int rows, size_t tiles, size_t blocks, size_t adjustments) const;
  void write_rows(const qwen3_cuda_batch& batch, int rows, std::byte* sheet) const;
  void write_sampling(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int rows, std::byte* sheet,
                      size_t& bytes) const;
  StepView view_of(int rows, int sheet) const;

  HeadShape heads_;
  bool one_class_;
  int decode_grid_, prefill_grid_;
  struct Sheet {
    PinnedBuffer host;
    DeviceBuffer device;
  };
  std::array<Sheet, 2> sheets_;
  // Of the planned step.
  std::vector<StepSequence> sequences_;  // in the device's order
  std::vector<int32_t> row_of_;          // device row -> row of the batch
  std::vector<int32_t> device_row_;      // the other way
  std::vector<RowRange> ranges_;
  AttentionSchedule schedule_;
};

}  // namespace qwen3::cuda
