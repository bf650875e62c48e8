#include <algorithm>
#include <cmath>
#include <limits>

#include "core/math.h"
#include "cpu/reference/reference.h"

namespace qwen3::reference {

// Per group: scale = largest magnitude / 127, each value rounded to a multiple of it. NaN for all when one is not
// finite; zero when all are below 2^-100.
std::vector<float> product_input(const float* x, int64_t n_rows, const ReferenceWeight& weight) {
  const int64_t cols = weight.cols;
  std::vector<float> out(x, x + n_rows * cols);
  if (weight.group == 0) return out;
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t begin = 0; begin < cols; begin += weight.group) {
      float* values = out.data() + r * cols + begin;
      const int64_t n = std::min(weight.group, cols - begin);
      float largest = 0;
      bool finite = true;
      for (int64_t i = 0; i < n; ++i) {
        finite = finite && std::isfinite(values[i]);
        largest = std::max(largest, std::abs(values[i]));
      }
      const bool counts = largest >= 0x1p-100f;
      const float scale = largest / 127.0f, inverse = counts ? 127.0f / largest : 0.0f;
      for (int64_t i = 0; i < n; ++i) {
        values[i] = !finite  ? std::numeric_limits<float>::quiet_NaN()
                    : counts ? std::nearbyint(values[i] * inverse) * scale
                             : 0.0f;
      }
    }
  }
  return out;
}

// out = x W^T, out += x W^T, or with W = [gate; up]: out = silu(x gate^T) * (x up^T)
void linear(const Activation& x, int64_t n_rows, const ReferenceWeight& weight, Epilogue epilogue, Activation& out) {
  const int64_t k = weight.cols, n = epilogue == Epilogue::kSiluMul ? weight.rows / 2 : weight.rows;
  const std::vector<float> input = product_input(x.row(0), n_rows, weight);
  for (int64_t i = 0; i < n; ++i) {  // rows of the weight outermost: each is read once a step
    for (int64_t r = 0; r < n_rows; ++r) {
      const float* in = input.data() + r * k;
      const float product = dot(in, weight.row(i), k);
      float& to = out.row(r)[i];
      switch (epilogue) {
        case Epilogue::kStore:
          to = round_to(out.dtype, product);
          break;
        case Epilogue::kAddTo:
          to = round_to(out.dtype, to + product);
          break;
        case Epilogue::kSiluMul:
          to = round_to(out.dtype, silu_f32(product) * dot(in, weight.row(n + i), k));
          break;
      }
    }
  }
}

}  // namespace qwen3::reference
