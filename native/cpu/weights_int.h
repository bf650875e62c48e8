#pragma once

#include "core/dtype.h"
#include "cpu/kernels.h"
#include "ops/backend.h"

namespace qwen3::cpu {

// What an integer format is made of; layouts in kernels.h.
struct IntFormat {
  int64_t group;        // k that share a scale
  int64_t block_bytes;  // of 64 k and 32 columns
  int32_t offset;       // QuantiseArgs::offset
  int64_t groups_per_block() const { return kBlock / group; }
};

bool is_integer(WeightFormat format);
IntFormat int_format(WeightFormat format);  // of an integer format

// Up to n_rows quantised rows of activations in one buffer, as the kernels want them: the rows, then f32 scales and
// corrections [n_groups, meta_stride]. Strides are odd numbers of cache lines.
struct QuantisedRows {
  int64_t row_stride, n_groups, meta_stride;  // bytes, -, elements
  int64_t scales, corrections, bytes;         // offsets, total
  int32_t value_bytes;
  QuantisedRows(const KernelTable& kernels, WeightFormat format, int64_t cols, int64_t n_rows);
  QuantiseArgs args(WeightFormat format, const void* x, Store store, int64_t cols, char* base, int64_t row) const;
  // x and what belongs to it.
  void set(LinearArgs& args, const char* base) const;
};

// Quantises rows of `source` type, [n_rows, cols], into columns [column, column + n_rows) of a panel.
void pack_int_rows(const KernelTable& kernels, WeightFormat format, const char* rows, int64_t n_rows, int64_t cols,
                   DType source, uint8_t* panel, int64_t column);
// One column of a panel as f32, [cols].
void read_int_column(WeightFormat format, const uint8_t* panel, int64_t column, int64_t cols, float* out);
// row[i] = the value that the packed weight holds for row[i].
void quantise_weight_row(WeightFormat format, float* row, int64_t cols);

}  // namespace qwen3::cpu
