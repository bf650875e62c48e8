#include "cpu/weights_int.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/checked.h"
#include "core/status.h"

namespace qwen3::cpu {
namespace {

int64_t n_blocks_of(int64_t cols) {
  return (cols + kBlock - 1) / kBlock;
}

int64_t odd_lines(int64_t bytes) {
  return ((bytes + 63) / 64 | 1) * 64;
}

void widen(const char* row, int64_t cols, DType dtype, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, row, static_cast<size_t>(cols) * 4);
    return;
  }
  for (int64_t i = 0; i < cols; ++i) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * i, sizeof bits);
    out[i] = dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  }
}

// A row of weights, quantised: whole blocks.
struct IntRow {
  std::vector<float> values, scale, zero;
  std::vector<uint16_t> half_scale;
  std::vector<uint8_t> q;

  IntRow(WeightFormat format, int64_t cols) {
    const size_t n = static_cast<size_t>(n_blocks_of(cols) * kBlock);
    const size_t groups = n / static_cast<size_t>(int_format(format).group);
    values.resize(n), q.resize(n), scale.resize(groups), half_scale.resize(groups), zero.resize(groups);
  }

  // From values[cols].
  void quantise(const KernelTable& kernels, WeightFormat format) {
    const int64_t group = int_format(format).group, n_groups = static_cast<int64_t>(scale.size());
    const FitArgs fit{values.data(), n_groups, format == WeightFormat::kInt4Offset, scale.data(), zero.data()};
    const bool bytes = format == WeightFormat::kInt8;
    if (bytes) {
      kernels.fit_int8(&fit);
      std::fill(zero.begin(), zero.end(), 128.0f);
    } else {
      kernels.fit_int4(&fit);
    }
    for (size_t g = 0; g < scale.size(); ++g) {
      half_scale[g] = f32_to_f16(scale[g]);
      scale[g] = f16_to_f32(half_scale[g]);
    }
    const EncodeArgs encode{values.data(),          n_groups, group, scale.data(), zero.data(), bytes ? 1.0f : 0.0f,
                            bytes ? 255.0f : 15.0f, q.data()};
    kernels.encode(&encode);
  }

  uint32_t word(int64_t at) const {
    uint32_t out;
    std::memcpy(&out, q.data() + at, sizeof out);
    return out;
  }
};

void put_word(uint8_t* at, uint32_t word) {
  std::memcpy(at, &word, sizeof word);
}

// Writes block `b` of a row as column `column` of the panel.
void place(WeightFormat format, const IntRow& row, int64_t b, uint8_t* block, int64_t column) {
  const IntFormat f = int_format(format);
  const int64_t k = b * kBlock;
  uint8_t* scales = block + f.block_bytes;
  if (format == WeightFormat::kInt8) {
    for (int64_t s = 0; s < kBlock / 4; ++s) put_word(block + (s * kPanel + column) * 4, row.word(k + 4 * s));
    scales = block + kBlock * kPanel;
  } else {
    for (int64_t g = 0; g < 2; ++g) {
      for (int64_t t = 0; t < 4; ++t) {
        const int64_t at = k + 32 * g + 4 * t;
        put_word(block + ((4 * g + t) * kPanel + column) * 4, row.word(at) | row.word(at + 16) << 4);
      }
    }
    scales = block + kBlock * kPanel / 2;
  }
  for (int64_t g = 0; g < f.groups_per_block(); ++g) {
    const size_t from = static_cast<size_t>(b * f.groups_per_block() + g);
    std::memcpy(scales + (g * kPanel + column) * 2, &row.half_scale[from], 2);
    if (format != WeightFormat::kInt4Offset) continue;
    block[kInt4BlockBytes + g * kPanel + column] = static_cast<uint8_t>(row.zero[from] * 16.0f);
  }
}

}  // namespace

bool is_integer(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4 || format == WeightFormat::kInt4Offset;
}

IntFormat int_format(WeightFormat format) {
  switch (format) {
    case WeightFormat::kInt8:
      return {64, kInt8BlockBytes, 128};
    case WeightFormat::kInt4:
      return {32, kInt4BlockBytes, 8};
    case WeightFormat::kInt4Offset:
      return {32, kInt4OffsetBlockBytes, 0};
    default:
      throw Error(ErrorCode::kInternal, "not an integer format of weights");
  }
}

QuantisedRows::QuantisedRows(const KernelTable& kernels, WeightFormat format, int64_t cols, int64_t n_rows) {
  const int64_t k = n_blocks_of(cols) * kBlock;
  value_bytes = format == WeightFormat::kInt8 ? kernels.int8_activation_bytes : 1;
  row_stride = odd_lines(checked_mul(k, value_bytes));
  n_groups = k / int_format(format).group;
  meta_stride = odd_lines(n_rows * 4) / 4;
  scales = checked_mul(n_rows, row_stride);
  corrections = checked_add(scales, checked_mul(n_groups, meta_stride * 4));
  bytes = checked_add(corrections, checked_mul(n_groups, meta_stride * 4));
}

QuantiseArgs QuantisedRows::args(WeightFormat format, const void* x, Store store, int64_t cols, char* base,
                                 int64_t row) const {
  const IntFormat f = int_format(format);
  QuantiseArgs out{};
  out.x = x, out.store = store, out.cols = cols;
  out.group = f.group, out.n_groups = n_groups, out.offset = f.offset, out.value_bytes = value_bytes;
  out.out = reinterpret_cast<int8_t*>(base + row * row_stride);
  out.scales = reinterpret_cast<float*>(base + scales) + row;
  out.corrections = reinterpret_cast<int32_t*>(base + corrections) + row;
  out.meta_stride = meta_stride;
  return out;
}

void QuantisedRows::set(LinearArgs& args, const char* base) const {
  args.x = base, args.x_stride = row_stride;
  args.x_scales = reinterpret_cast<const float*>(base + scales);
  args.x_corrections = reinterpret_cast<const int32_t*>(base + corrections);
  args.x_meta_stride = meta_stride;
}

void pack_int_rows(const KernelTable& kernels, WeightFormat format, const char* rows, int64_t n_rows, int64_t cols,
                   DType source, uint8_t* panel, int64_t column) {
  const int64_t n_blocks = n_blocks_of(cols), block_bytes = int_format(format).block_bytes;
  std::vector<IntRow> quantised;
  quantised.reserve(static_cast<size_t>(n_rows));
  for (int64_t r = 0; r < n_rows; ++r) {
    quantised.emplace_back(format, cols);
    widen(rows + r * cols * dtype_bytes(source), cols, source, quantised.back().values.data());
    quantised.back().quantise(kernels, format);
  }
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (int64_t r = 0; r < n_rows; ++r) {
      place(format, quantised[static_cast<size_t>(r)], b, panel + b * block_bytes, column + r);
    }
  }
}

void read_int_column(WeightFormat format, const uint8_t* panel, int64_t column, int64_t cols, float* out) {
  const IntFormat f = int_format(format);
  const bool bytes = format == WeightFormat::kInt8;
  const int64_t scales = bytes ? kBlock * kPanel : kBlock * kPanel / 2;
  for (int64_t k = 0; k < cols; ++k) {
    const uint8_t* block = panel + k / kBlock * f.block_bytes;
    const int64_t in = k % kBlock, g = in / f.group;
    uint16_t half;
    std::memcpy(&half, block + scales + (g * kPanel + column) * 2, sizeof half);
    const float scale = f16_to_f32(half);
    if (bytes) {
      out[k] = scale * static_cast<float>(block[(in / 4 * kPanel + column) * 4 + in % 4] - 128);
      continue;
    }
    const int64_t i = in % 32;
    const int both = block[((4 * g + i % 16 / 4) * kPanel + column) * 4 + i % 4], q = i < 16 ? both & 15 : both >> 4;
    const float zero = f.offset ? 8.0f : static_cast<float>(block[kInt4BlockBytes + g * kPanel + column]) / 16.0f;
    out[k] = scale * (static_cast<float>(q) - zero);
  }
}

void quantise_weight_row(WeightFormat format, float* row, int64_t cols) {
  IntRow quantised(format, cols);
  std::copy_n(row, cols, quantised.values.data());
  quantised.quantise(*kernels_scalar(), format);
  const int64_t group = int_format(format).group;
  for (int64_t i = 0; i < cols; ++i) {
    const size_t at = static_cast<size_t>(i), g = static_cast<size_t>(i / group);
    row[i] = quantised.scale[g] * (static_cast<float>(quantised.q[at]) - quantised.zero[g]);
  }
}

}  // namespace qwen3::cpu
