#include "cuda/weights.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/checked.h"
#include "core/dtype.h"

namespace qwen3::cuda {
namespace {

constexpr int64_t kPieceBytes = 8 << 20;

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
                    " does not fit the CUDA kernels: columns must be a multiple of 8",
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

// Rows on their way: read, converted into one of two pinned pieces, copied.
class Upload {
 public:
  Upload(Stream stream, std::byte* to, int64_t row_bytes) : stream_(stream), to_(to), row_bytes_(row_bytes) {
    for (PinnedBuffer& piece : pieces_)
      piece = PinnedBuffer(static_cast<size_t>(std::max(kPieceBytes, 16 * row_bytes)));
  }
  int64_t rows_per_piece() const { return std::max<int64_t>(16, kPieceBytes / row_bytes_ / 16 * 16); }
  // The piece to fill next: free, because the copy before the last one is over.
  std::byte* piece() {
    if (++used_ > 2) synchronize(stream_);
    return pieces_[used_ % 2].as<std::byte>();
  }
  void send(int64_t rows) {
    const auto bytes = static_cast<size_t>(rows * row_bytes_);
    copy_to_device(stream_, to_, pieces_[used_ % 2].as<std::byte>(), bytes);
    to_ += bytes;
  }
  void finish() { synchronize(stream_); }

 private:
  Stream stream_;
  std::byte* to_;
  int64_t row_bytes_;
  PinnedBuffer pieces_[2];
  int64_t used_ = 0;
};

void read_rows(const qwen3_cuda_source& source, int64_t begin, int64_t end, std::vector<std::byte>& raw) {
  raw.resize(static_cast<size_t>((end - begin) * source.cols * dtype_bytes(static_cast<DType>(source.dtype))));
  if (source.read(source.context, begin, end, raw.data()) != 0) {
    throw Error(ErrorCode::kAborted, "reading the weights was given up");
  }
}

}  // namespace

int64_t packed_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) {
  check_shape(use, format, rows, cols);
  return checked_mul(checked_mul(rows, cols), use == WeightUse::kVector ? 4 : 2);
}

std::unique_ptr<DeviceWeight> pack_weight(Stream stream, WeightUse use, WeightFormat format,
                                          std::span<const qwen3_cuda_source> sources) {
  auto weight = std::make_unique<DeviceWeight>();
  weight->use = use;
  weight->cols = sources.front().cols;
  for (const qwen3_cuda_source& s : sources) weight->rows = checked_add(weight->rows, s.rows);
  weight->data = DeviceBuffer(static_cast<size_t>(packed_bytes(use, format, weight->rows, weight->cols)));
  const bool bf16 = use != WeightUse::kVector;
  const int64_t cols = weight->cols, element = bf16 ? 2 : 4, row_bytes = cols * element;
  Upload upload(stream, weight->data.as<std::byte>(), row_bytes);
  std::vector<std::byte> raw;
  // Writes rows of a source into a piece, `group` at a time with gaps of the same size (group 0: without gaps).
  const auto fill = [&](const qwen3_cuda_source& source, int64_t begin, int64_t end, std::byte* to, int64_t group) {
    read_rows(source, begin, end, raw);
    const auto dtype = static_cast<DType>(source.dtype);
    const int64_t step = group ? group : end - begin;
    for (int64_t r = 0; r < end - begin; r += step) {
      convert(dtype, raw.data() + r * cols * dtype_bytes(dtype), std::min(step, end - begin - r) * cols, bf16,
              to + (group ? 2 * r : r) * row_bytes);
    }
  };
  if (use == WeightUse::kGateUp) {
    const int64_t step = upload.rows_per_piece() / 2;
    for (int64_t begin = 0; begin < sources[0].rows; begin += step) {
      const int64_t end = std::min(sources[0].rows, begin + step);
      std::byte* piece = upload.piece();
      fill(sources[0], begin, end, piece, 8);
      fill(sources[1], begin, end, piece + 8 * row_bytes, 8);
      upload.send(2 * (end - begin));
    }
  } else {
    for (const qwen3_cuda_source& source : sources) {
      for (int64_t begin = 0; begin < source.rows; begin += upload.rows_per_piece()) {
        const int64_t end = std::min(source.rows, begin + upload.rows_per_piece());
        fill(source, begin, end, upload.piece(), 0);
        upload.send(end - begin);
      }
    }
  }
  upload.finish();
  return weight;
}

}  // namespace qwen3::cuda
