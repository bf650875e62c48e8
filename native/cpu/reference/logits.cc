#include "cpu/reference/reference.h"

namespace qwen3::reference {

// out[i, :] = x[rows[i], :] W^T
void logits(const Activation& x, std::span<const int32_t> rows, const ReferenceWeight& weight, float* out) {
  for (int64_t v = 0; v < weight.rows; ++v) {
    for (size_t i = 0; i < rows.size(); ++i) {
      out[static_cast<int64_t>(i) * weight.rows + v] = dot(x.row(rows[i]), weight.row(v), weight.cols);
    }
  }
}

}  // namespace qwen3::reference
