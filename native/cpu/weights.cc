#include "cpu/weights.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "core/checked.h"
#include "core/status.h"
#include "cpu/weights_int.h"

namespace qwen3::cpu {
namespace {

// A task reads about this much of the source at a time: long enough for a disk, small enough to be in the cache when it
// is packed, and short enough that a pool that also serves a running model is not held up.
constexpr int64_t kTaskBytes = 1 << 20;

struct Shape {
  int64_t n_panels, steps, bytes;
};

Shape packed_shape(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) {
  if (use == WeightUse::kVector) return {0, 0, checked_mul(checked_mul(rows, cols), 4)};
  const int64_t n_panels =
      use == WeightUse::kGateUp ? (rows / 2 + kPanel / 2 - 1) / (kPanel / 2) : (rows + kPanel - 1) / kPanel;
  if (is_integer(format)) {
    const int64_t blocks = (cols + kBlock - 1) / kBlock;
    return {n_panels, blocks, checked_mul(checked_mul(n_panels, blocks), int_format(format).block_bytes)};
  }
  const int64_t depth = format == WeightFormat::kBF16 ? 2 : 1;
  const int64_t steps = (cols + depth - 1) / depth;
  return {n_panels, steps, checked_mul(checked_mul(n_panels, steps), kPanel * 4)};  // a step of a column is 4 bytes
}

uint16_t to_bf16(const void* row, int64_t i, DType dtype) {
  if (dtype == DType::kBF16) return static_cast<const uint16_t*>(row)[i];
  if (dtype == DType::kF32) return f32_to_bf16(static_cast<const float*>(row)[i]);
  return f32_to_bf16(f16_to_f32(static_cast<const uint16_t*>(row)[i]));
}

float to_f32(const void* row, int64_t i, DType dtype) {
  if (dtype == DType::kF32) return static_cast<const float*>(row)[i];
  const uint16_t bits = static_cast<const uint16_t*>(row)[i];
  return dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

uint32_t step_of(const void* row, int64_t step, int64_t cols, DType dtype, WeightFormat format) {
  uint32_t out;
  if (format == WeightFormat::kF32) {
    const float value = to_f32(row, step, dtype);
    std::memcpy(&out, &value, sizeof out);
    return out;
  }
  const int64_t k = 2 * step;
  return to_bf16(row, k, dtype) | (k + 1 < cols ? static_cast<uint32_t>(to_bf16(row, k + 1, dtype)) << 16 : 0u);
}

// Rows [0, n_rows) of a source become columns [column, column + n_rows) of a panel, [steps][32] words of 4 bytes.
void interleave(const char* rows, int64_t n_rows, int64_t cols, DType dtype, WeightFormat format, int64_t steps,
                uint32_t* panel, int64_t column) {
  const int64_t row_bytes = cols * dtype_bytes(dtype);
  const bool words = (format == WeightFormat::kBF16 && dtype == DType::kBF16) ||
                     (format == WeightFormat::kF32 && dtype == DType::kF32);
  const int64_t whole = words ? row_bytes / 4 : 0;
  constexpr int64_t kAtOnce = 16;  // words of a row: one cache line is read and the panel is written line by line
  for (int64_t s0 = 0; s0 < steps; s0 += kAtOnce) {
    const int64_t s1 = std::min(steps, s0 + kAtOnce);
    for (int64_t r = 0; r < n_rows; ++r) {
      const char* row = rows + r * row_bytes;
      for (int64_t s = s0; s < s1; ++s) {
        uint32_t word;
        if (s < whole) {
          std::memcpy(&word, row + s * 4, sizeof word);
        } else {
          word = step_of(row, s, cols, dtype, format);
        }
        panel[s * kPanel + column + r] = word;
      }
    }
  }
}

// Rows of the stacked sources, as a range of one source.
struct Piece {
  const MatrixSource* source;
  int64_t begin, end;  // rows of the source
  int64_t column;      // of the panel
};

// What panel `panel` is made of.
void pieces_of(std::span<const MatrixSource> sources, WeightUse use, int64_t panel, std::vector<Piece>& out) {
  out.clear();
  if (use == WeightUse::kGateUp) {
    constexpr int64_t kHalf = kPanel / 2;
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t begin = panel * kHalf, end = std::min(sources[i].rows, begin + kHalf);
      if (begin < end) out.push_back({&sources[i], begin, end, i * kHalf});
    }
    return;
  }
  int64_t first = 0;
  for (const MatrixSource& source : sources) {
    const int64_t begin = std::max(panel * kPanel, first), end = std::min(panel * kPanel + kPanel, first + source.rows);
    if (begin < end) out.push_back({&source, begin - first, end - first, begin - panel * kPanel});
    first += source.rows;
  }
}

void pack_panels(const KernelTable& kernels, PackedWeight& weight, std::span<const MatrixSource> sources,
                 int64_t panel_begin, int64_t panel_end) {
  std::vector<char> rows;
  std::vector<Piece> pieces;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    char* out = weight.data.as<char>() + panel * weight.panel_bytes();
    pieces_of(sources, weight.use, panel, pieces);
    for (const Piece& piece : pieces) {
      const int64_t n = piece.end - piece.begin;
      rows.resize(static_cast<size_t>(n * weight.cols * dtype_bytes(piece.source->dtype)));
      piece.source->read(piece.begin, piece.end, rows.data());
      if (is_integer(weight.format)) {
        pack_int_rows(kernels, weight.format, rows.data(), n, weight.cols, piece.source->dtype,
                      reinterpret_cast<uint8_t*>(out), piece.column);
      } else {
        interleave(rows.data(), n, weight.cols, piece.source->dtype, weight.format, weight.steps,
                   reinterpret_cast<uint32_t*>(out), piece.column);
      }
    }
  }
}

void pack_vector(PackedWeight& weight, std::span<const MatrixSource> sources) {
  float* out = weight.data.as<float>();
  std::vector<char> values;
  for (const MatrixSource& source : sources) {
    const int64_t n = source.rows * source.cols;
    values.resize(static_cast<size_t>(n * dtype_bytes(source.dtype)));
    source.read(0, source.rows, values.data());
    for (int64_t i = 0; i < n; ++i) *out++ = to_f32(values.data(), i, source.dtype);
  }
}

void check_sources(WeightUse use, std::span<const MatrixSource> sources) {
  bool fits = !sources.empty() && (use != WeightUse::kGateUp || sources.size() == 2);
  for (const MatrixSource& source : sources) {
    fits = fits && source.rows > 0 && source.cols > 0 && source.cols == sources[0].cols;
    if (use == WeightUse::kGateUp) fits = fits && source.rows == sources[0].rows;
  }
  if (!fits)
    throw Error(ErrorCode::kInvalidArgument, "the matrices of one weight do not have matching shapes", "shape");
}

// Everything but the data.
std::unique_ptr<PackedWeight> shape_weight(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) {
  auto weight = std::make_unique<PackedWeight>();
  weight->use = use;
  weight->format = use == WeightUse::kVector ? WeightFormat::kF32 : format;
  weight->rows = rows, weight->cols = cols;
  const Shape shape = packed_shape(use, weight->format, rows, cols);
  weight->n_panels = shape.n_panels, weight->steps = shape.steps;
  weight->bytes = static_cast<size_t>(shape.bytes);
  return weight;
}

}  // namespace

int64_t packed_weight_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) {
  return packed_shape(use, format, rows, cols).bytes;
}

std::unique_ptr<PackedWeight> pack_weight(ThreadPool& pool, const KernelTable& kernels, WeightMemory& memory,
                                          WeightUse use, WeightFormat format, std::span<const MatrixSource> sources) {
  check_sources(use, sources);
  int64_t n_rows = 0;
  for (const MatrixSource& source : sources) n_rows = checked_add(n_rows, source.rows);
  auto weight = shape_weight(use, format, n_rows, sources[0].cols);
  weight->data = memory.take(static_cast<int64_t>(weight->bytes));
  if (use == WeightUse::kVector) {
    pack_vector(*weight, sources);
    return weight;
  }
  const int64_t per_task = std::max<int64_t>(1, kTaskBytes / weight->panel_bytes());
  const int64_t per_dispatch = per_task * pool.size() * 4;  // then others may use the pool
  for (int64_t begin = 0; begin < weight->n_panels; begin += per_dispatch) {
    const int64_t end = std::min(weight->n_panels, begin + per_dispatch);
    pool.parallel_for((end - begin + per_task - 1) / per_task, [&](int64_t task) {
      const int64_t first = begin + task * per_task;
      pack_panels(kernels, *weight, sources, first, std::min(end, first + per_task));
    });
  }
  return weight;
}

std::span<const std::byte> packed_bytes_of(const PackedWeight& weight) {
  return {weight.data.as<const std::byte>(), weight.bytes};
}

std::unique_ptr<PackedWeight> adopt_weight(WeightUse use, WeightFormat format, int64_t rows, int64_t cols,
                                           std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  auto weight = shape_weight(use, format, rows, cols);
  if (bytes.size() != weight->bytes || reinterpret_cast<uintptr_t>(bytes.data()) % 64 != 0) {
    throw Error(ErrorCode::kInvalidArgument, "these are not the packed bytes of such a weight", "bytes");
  }
  weight->data = Buffer(bytes.data(), static_cast<int64_t>(bytes.size()), std::move(owner));
  return weight;
}

int64_t PackedWeight::panel_bytes() const {
  return is_integer(format) ? steps * int_format(format).block_bytes : steps * kPanel * 4;
}

void PackedWeight::read_row(int64_t row, float* out) const {
  if (is_integer(format)) {
    const uint8_t* panel = data.as<uint8_t>() + row / kPanel * panel_bytes();
    return read_int_column(format, panel, row % kPanel, cols, out);
  }
  const uint32_t* words = data.as<uint32_t>() + row / kPanel * steps * kPanel + row % kPanel;
  for (int64_t s = 0; s < steps; ++s) {
    const uint32_t word = words[s * kPanel];
    if (format == WeightFormat::kF32) {
      std::memcpy(out + s, &word, sizeof word);
      continue;
    }
    out[2 * s] = bf16_to_f32(static_cast<uint16_t>(word));
    if (2 * s + 1 < cols) out[2 * s + 1] = bf16_to_f32(static_cast<uint16_t>(word >> 16));
  }
}

}  // namespace qwen3::cpu
