#pragma once

// A checkpoint on disk for loading tests: the tensors of a seeded random model written one after another into one file,
// with the descriptions that the safetensors parser would hand over.

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "model/random_weights.h"
#include "model/weight_plan.h"
#include "testing.h"

namespace qwen3::testing {

class CheckpointFile {
 public:
  CheckpointFile(const ModelConfig& config, uint64_t weights_seed, DType dtype = DType::kBF16) {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("qwen3-load-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::ofstream file(path_, std::ios::binary);
    file << "header of eleven odd bytes"[0];  // tensors at odd offsets: nothing may rely on alignment
    int64_t offset = 1;
    for (const WeightSpec& weight : plan_weights(config).specs) {
      for (const TensorSpec& tensor : weight.tensors) {
        const MatrixSource source = random_tensor(tensor, weights_seed);
        std::vector<uint16_t> bits(static_cast<size_t>(tensor.rows * tensor.cols));
        source.read(0, tensor.rows, bits.data());
        TensorRef ref{tensor.name, path_.string(), offset, 0, dtype, {tensor.rows}};
        if (!tensor.vector) ref.shape.push_back(tensor.cols);
        ref.bytes = static_cast<int64_t>(bits.size()) * dtype_bytes(dtype);
        write(file, bits, dtype);
        offset += ref.bytes;
        source_.tensors.push_back(ref);
      }
    }
  }
  ~CheckpointFile() { std::filesystem::remove(path_); }
  CheckpointFile(const CheckpointFile&) = delete;
  CheckpointFile& operator=(const CheckpointFile&) = delete;

  const WeightsSource& source() const { return source_; }
  const std::filesystem::path& path() const { return path_; }
  // A copy of the descriptions with one tensor changed.
  WeightsSource with(const std::string& name, const std::function<void(TensorRef&)>& change) const {
    WeightsSource changed = source_;
    for (TensorRef& ref : changed.tensors) {
      if (ref.name == name) change(ref);
    }
    return changed;
  }
  WeightsSource without(const std::string& name) const {
    WeightsSource changed = source_;
    std::erase_if(changed.tensors, [&](const TensorRef& ref) { return ref.name == name; });
    return changed;
  }

 private:
  static void write(std::ofstream& file, const std::vector<uint16_t>& bits, DType dtype) {
    for (const uint16_t b : bits) {
      const float value = bf16_to_f32(b);
      // Exact: bf16 has fewer mantissa bits, and no generated value but 0 is below a normal half's 2^-14.
      const uint16_t half = f16_truncated(value);
      if (dtype == DType::kF32)
        file.write(reinterpret_cast<const char*>(&value), 4);
      else
        file.write(reinterpret_cast<const char*>(dtype == DType::kF16 ? &half : &b), 2);
    }
  }
  static uint16_t f16_truncated(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const int32_t exponent = static_cast<int32_t>((bits >> 23) & 0xff) - 112;
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    if (exponent <= 0) return sign;
    return static_cast<uint16_t>(sign | (exponent << 10) | ((bits >> 13) & 0x3ffu));
  }

  std::filesystem::path path_;
  WeightsSource source_;
};

// Logits of a short fixed prompt: what two loads of equal weights must agree on.
inline std::vector<float> probe_logits(const Model& model, Backend& backend, int32_t n_tokens = 6) {
  const auto program = model.program(std::nullopt);
  const auto cache = backend.create_kv_cache(*program, DType::kF32, 1);
  const auto executable = backend.compile(program, model.weights(), n_tokens, kBlockSize);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < n_tokens; ++i) tokens.push_back((i * 37 + 5) % program->vocab);
  return run_sequence(*executable, *program, *cache, tokens);
}

}  // namespace qwen3::testing
