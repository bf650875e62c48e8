#include "model/checkpoint.h"

#include <string_view>
#include <utility>

#include "core/checked.h"
#include "core/status.h"
#include "model/random_weights.h"

namespace qwen3 {
namespace {

constexpr std::string_view kPrefix = "model.";

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void check_extent(const TensorRef& ref, const TensorSpec& spec, const FileReader& file) {
  const std::vector<int64_t> expected =
      spec.vector ? std::vector<int64_t>{spec.rows} : std::vector<int64_t>{spec.rows, spec.cols};
  if (ref.shape != expected) {
    throw Error(ErrorCode::kBadModelFile,
                "tensor " + ref.name + " has shape " + shape_text(ref.shape) + " where config.json asks for " +
                    shape_text(expected),
                ref.name);
  }
  const int64_t bytes = checked_mul(checked_mul(spec.rows, spec.cols), dtype_bytes(ref.dtype));
  if (ref.bytes != bytes) {
    throw Error(ErrorCode::kBadModelFile,
                "tensor " + ref.name + " takes " + std::to_string(ref.bytes) +
                    " bytes in the file where its shape asks for " + std::to_string(bytes),
                ref.name);
  }
  if (ref.offset < 0 || ref.offset > file.size() || bytes > file.size() - ref.offset) {
    throw Error(ErrorCode::kBadModelFile,
                "tensor " + ref.name + " at offset " + std::to_string(ref.offset) + " does not lie inside " +
                    file.path() + ", which has " + std::to_string(file.size()) + " bytes",
                ref.name);
  }
}

}  // namespace

Checkpoint::Checkpoint(const WeightsSource& source) : source_(source) {
  for (const TensorRef& ref : source.tensors) {
    if (!by_name_.emplace(ref.name, &ref).second) {
      throw Error(ErrorCode::kBadModelFile, "tensor " + ref.name + " occurs twice", ref.name);
    }
  }
}

std::shared_ptr<const FileReader> Checkpoint::open(const std::string& path) {
  auto& file = files_[path];
  if (!file) file = std::make_shared<const FileReader>(path);
  return file;
}

MatrixSource Checkpoint::find(const TensorSpec& spec) {
  if (source_.random) return random_tensor(spec, source_.seed);
  auto found = by_name_.find(spec.name);
  // The Embedding models leave out the prefix.
  if (found == by_name_.end() && spec.name.starts_with(kPrefix))
    found = by_name_.find(spec.name.substr(kPrefix.size()));
  if (found == by_name_.end()) {
    throw Error(ErrorCode::kBadModelFile, "tensor " + spec.name + " is missing", spec.name);
  }
  const TensorRef& ref = *found->second;
  std::shared_ptr<const FileReader> file = open(ref.path);
  check_extent(ref, spec, *file);
  const int64_t row_bytes = spec.cols * dtype_bytes(ref.dtype), offset = ref.offset;
  return MatrixSource{spec.rows, spec.cols, ref.dtype, [=](int64_t begin, int64_t end, void* out) {
                        file->read(offset + begin * row_bytes, (end - begin) * row_bytes, out);
                      }};
}

}  // namespace qwen3
