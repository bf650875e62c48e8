#pragma once

#include <span>

#include "core/thread_pool.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "cpu/weight_memory.h"
#include "ops/backend.h"

namespace qwen3::cpu {

// A weight in the layout of the kernels. Vectors: [rows] f32. Everything else: panels [n_panels][steps][32][depth],
// depth 1 for f32 and 2 for bf16, or [n_panels][steps] blocks of integers (kernels.h); rows and columns past the end
// are zero. kGateUp: columns 0..15 of panel j are gate rows 16 j .. 16 j + 15, columns 16..31 the same rows of up.
class PackedWeight : public Weight {
 public:
  WeightUse use = WeightUse::kLinear;
  WeightFormat format = WeightFormat::kBF16;
  int64_t n_panels = 0, steps = 0;  // steps of 1, 2 or, in integer formats, 64 k
  Buffer data;

  int64_t panel_bytes() const;
  const float* vector() const { return data.as<float>(); }
  // Row `row` as f32, [cols].
  void read_row(int64_t row, float* out) const;
};

// Names the layout above and the arithmetic of packing; any change to the packed bytes changes it, so that files of
// packed weights from before are not read.
constexpr const char* kWeightLayout = "cpu-2";

int64_t packed_weight_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols);

// Throws Error(kInvalidArgument) for sources that do not fit together, std::bad_alloc, and what the sources throw.
std::unique_ptr<PackedWeight> pack_weight(ThreadPool& pool, const KernelTable& kernels, WeightMemory& memory,
                                          WeightUse use, WeightFormat format, std::span<const MatrixSource> sources);

// The packed bytes, and the weight that has these; `owner` keeps them. Throws Error(kInvalidArgument) when their number
// is not packed_weight_bytes() or they do not start on a 64-byte boundary.
std::span<const std::byte> packed_bytes_of(const PackedWeight& weight);
std::unique_ptr<PackedWeight> adopt_weight(WeightUse use, WeightFormat format, int64_t rows, int64_t cols,
                                           std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

}  // namespace qwen3::cpu
