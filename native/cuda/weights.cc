#include "cuda/weights.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/checked.h"
#include "core/dtype.h"

namespace qwen3::cuda {
namespace {

[[noreturn]] void unsupported(const std::string& what, const char* subject) {
  throw Error(ErrorCode::kUnsupported, what, subject);
}

void check_shape(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) {
  if (use == WeightUse::kVector) return;
  if (format != WeightFormat::kBF16) {
    unsupported("on CUDA this version holds weights as bf16 only; load the model with weights 'bf16'", "weights");
  }
  if (cols % 8 != 0 || rows % 2 != 0 || (use == WeightUse::kGateUp && rows % 16 != 0)) {
    unsupported("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) +
                    " does not fit the CUDA kernels: columns must be a multiple of 8, rows even, and gate and up of " +
                    "a multiple of 8 rows each",
                "model");
  }
}

float to_f32(DType dtype, const std::byte* data, int64_t i) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + i * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + i * 2, 2);
  return dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

void convert(DType from, const std::byte* data, int64_t n, bool to_bf16_values, std::byte* out) {
  if (to_bf16_values && from == DType::kBF16) {
    std::memcpy(out, data, static_cast<size_t>(n) * 2);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float value = to_f32(from, data, i);
    if (to_bf16_values) {
      const uint16_t bits = f32_to_bf16(value);
      std::memcpy(out + i * 2, &bits, 2);
    } else {
      std::memcpy(out + i * 4, &value, 4);
    }
  }
}

void read_rows(const qwen3_cuda_source& source, int64_t begin, int64_t end, std::byte* to) {
  if (source.read(source.context, begin, end, to) != 0) {
    throw Error(ErrorCode::kAborted, "reading the weights was given up");
  }
}

}  // namespace

int64_t packed_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) {
  check_shape(use, format, rows, cols);
  return checked_mul(checked_mul(rows, cols), use == WeightUse::kVector ? 4 : 2);
}

namespace {

// Rows [begin, end) of a source as one piece sends them.
struct Part {
  const qwen3_cuda_source* source;
  int64_t begin, end;
  int64_t row;  // of the packed matrix, where the part begins
};

// Writes rows of a source, `group` at a time with gaps of the same size (group 0: without gaps).
void fill_rows(const qwen3_cuda_source& source, int64_t begin, int64_t end, bool bf16, int64_t group, std::byte* to) {
  const auto dtype = static_cast<DType>(source.dtype);
  const int64_t cols = source.cols, row_bytes = cols * (bf16 ? 2 : 4);
  const int64_t step = group ? group : end - begin;
  if (bf16 && dtype == DType::kBF16) {  // straight to where they are sent from
    for (int64_t r = 0; r < end - begin; r += step)
      read_rows(source, begin + r, begin + std::min(r + step, end - begin), to + (group ? 2 * r : r) * row_bytes);
    return;
  }
  std::vector<std::byte> raw(static_cast<size_t>((end - begin) * cols * dtype_bytes(dtype)));
  read_rows(source, begin, end, raw.data());
  for (int64_t r = 0; r < end - begin; r += step) {
    convert(dtype, raw.data() + r * cols * dtype_bytes(dtype), std::min(step, end - begin - r) * cols, bf16,
            to + (group ? 2 * r : r) * row_bytes);
  }
}

// Vectors come as n rows of one element; matrices in rows that fit a piece, for gate and up both of them. Those of an
// expert, of a few megabytes, are cut for several threads too, into parts worth a copy of their own.
std::vector<Part> cut(std::span<const qwen3_cuda_source> sources, bool gate_up, int64_t row_bytes) {
  constexpr auto kPieceBytes = static_cast<int64_t>(Loader::kPieceBytes);
  const int64_t fitting = kPieceBytes / row_bytes / (gate_up ? 2 : 1);
  if (fitting < 8)
    unsupported("a matrix row of " + std::to_string(row_bytes) + " bytes is beyond what CUDA loads", "model");
  const int64_t worth = Loader::kWorthBytes / row_bytes / (gate_up ? 2 : 1), rows = sources.front().rows;
  const int64_t wanted = std::max(worth, (rows + 2 * Loader::kThreads - 1) / (2 * Loader::kThreads));
  const int64_t step = std::min(fitting / 8, wanted / 8 + 1) * 8;
  std::vector<Part> parts;
  int64_t row = 0;
  for (const qwen3_cuda_source& source : sources.first(gate_up ? 1 : sources.size())) {
    for (int64_t begin = 0; begin < source.rows; begin += step) {
      const int64_t end = std::min(source.rows, begin + step);
      parts.push_back({&source, begin, end, row});
      row += (end - begin) * (gate_up ? 2 : 1);
    }
  }
  return parts;
}

}  // namespace

std::unique_ptr<DeviceWeight> pack_weight(Loader& loader, WeightUse use, WeightFormat format,
                                          std::span<const qwen3_cuda_source> sources) {
  auto weight = std::make_unique<DeviceWeight>();
  weight->use = use;
  weight->cols = sources.front().cols;
  for (const qwen3_cuda_source& s : sources) weight->rows = checked_add(weight->rows, s.rows);
  weight->data = DeviceBuffer(static_cast<size_t>(packed_bytes(use, format, weight->rows, weight->cols)));
  const bool bf16 = use != WeightUse::kVector, gate_up = use == WeightUse::kGateUp;
  const int64_t row_bytes = weight->cols * (bf16 ? 2 : 4);
  const std::vector<Part> parts = cut(sources, gate_up, row_bytes);
  const auto fill = [&](int64_t i, std::byte* to) {
    const Part& part = parts[static_cast<size_t>(i)];
    fill_rows(*part.source, part.begin, part.end, bf16, gate_up ? 8 : 0, to);
    if (gate_up) fill_rows(sources[1], part.begin, part.end, bf16, 8, to + 8 * row_bytes);
    return static_cast<size_t>((part.end - part.begin) * (gate_up ? 2 : 1) * row_bytes);
  };
  try {
    loader.send(static_cast<int64_t>(parts.size()), fill, [&](int64_t i) {
      return weight->data.as<std::byte>() + parts[static_cast<size_t>(i)].row * row_bytes;
    });
  } catch (...) {
    loader.finish();  // copies into memory that goes now
    throw;
  }
  return weight;
}

}  // namespace qwen3::cuda
