#include "cpu/reference/reference.h"

namespace qwen3::reference {

// out[i, :] = x[rows[i], :] W^T
void logits(const Activation& x, std::span<const int32_t> rows, const ReferenceWeight& weight, float* out) {
  std::vector<float> input;
  for (const int32_t row : rows) {
    const std::vector<float> one = product_input(x.row(row), 1, weight);
    input.insert(input.end(), one.begin(), one.end());
  }
  for (int64_t v = 0; v < weight.rows; ++v) {
    for (int64_t i = 0; i < static_cast<int64_t>(rows.size()); ++i) {
      out[i * weight.rows + v] = dot(input.data() + i * weight.cols, weight.row(v), weight.cols);
    }
  }
}

}  // namespace qwen3::reference
