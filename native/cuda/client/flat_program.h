#pragma once

#include <vector>

#include "cuda/library.h"
#include "ops/program.h"

namespace qwen3 {

// A Program as the plain structs of the library. Points into the Program and into itself: neither may move.
class FlatProgram {
 public:
  explicit FlatProgram(const Program& program);
  FlatProgram(const FlatProgram&) = delete;
  FlatProgram& operator=(const FlatProgram&) = delete;
  const qwen3_cuda_program* get() const { return &flat_; }

 private:
  qwen3_cuda_program flat_{};
  std::vector<qwen3_cuda_buffer> buffers_;
  std::vector<qwen3_cuda_op> ops_;
  std::vector<qwen3_cuda_rope_table> rope_tables_;
};

}  // namespace qwen3
