#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "core/file_reader.h"
#include "model/model.h"
#include "model/weight_plan.h"

namespace qwen3 {

// Finds the tensors of a plan in a WeightsSource and gives a reader for each, after checking shape, element type, byte
// size and place in the file. Files are opened once each.
class Checkpoint {
 public:
  // `source` must outlive this object. Throws Error(kBadModelFile) when a name occurs twice.
  explicit Checkpoint(const WeightsSource& source);
  // Throws Error(kBadModelFile, tensor): missing, another shape, a size that does not fit its shape, outside its file.
  MatrixSource find(const TensorSpec& tensor);

 private:
  std::shared_ptr<const FileReader> open(const std::string& path);

  const WeightsSource& source_;
  std::unordered_map<std::string, const TensorRef*> by_name_;
  std::map<std::string, std::shared_ptr<const FileReader>> files_;
};

}  // namespace qwen3
