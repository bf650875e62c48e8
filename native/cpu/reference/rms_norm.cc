#include <cmath>

#include "cpu/reference/reference.h"

namespace qwen3::reference {

// out[r, i] = x[r, i] / sqrt(mean_j x[r, j]^2 + eps) * weight[i]
void rms_norm(const Activation& x, int64_t n_rows, const ReferenceWeight& weight, float eps, Activation& out) {
  const int64_t n = x.cols;
  for (int64_t r = 0; r < n_rows; ++r) {
    const float* in = x.row(r);
    const float scale = 1.0f / std::sqrt(dot(in, in, n) / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; ++i) out.row(r)[i] = round_to(out.dtype, in[i] * scale * weight.values[i]);
  }
}

}  // namespace qwen3::reference
