#pragma once

#include <span>

#include "core/thread_pool.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "ops/backend.h"

namespace qwen3::cpu {

// A weight in the layout of the kernels. Vectors: [rows] f32. Everything else: panels [n_panels][steps][32][depth],
// depth 1 for f32 and 2 for bf16, rows and columns past the end zero. kGateUp: columns 0..15 of panel j are gate rows
// 16 j .. 16 j + 15, columns 16..31 the same rows of up.
class PackedWeight : public Weight {
 public:
  WeightUse use = WeightUse::kLinear;
  WeightFormat format = WeightFormat::kBF16;
  int64_t n_panels = 0, steps = 0;
  Buffer data;

  int64_t depth() const { return format == WeightFormat::kBF16 ? 2 : 1; }
  const float* vector() const { return data.as<float>(); }
  // Row `row` as f32, [cols].
  void read_row(int64_t row, float* out) const;
};

int64_t packed_weight_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols);

// Throws Error(kInvalidArgument) for sources that do not fit together, std::bad_alloc, and what the sources throw.
std::unique_ptr<PackedWeight> pack_weight(ThreadPool& pool, WeightUse use, WeightFormat format,
                                          std::span<const MatrixSource> sources);

}  // namespace qwen3::cpu
