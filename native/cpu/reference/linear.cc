#include "core/math.h"
#include "cpu/reference/reference.h"

namespace qwen3::reference {

// out = x W^T, out += x W^T, or with W = [gate; up]: out = silu(x gate^T) * (x up^T)
void linear(const Activation& x, int64_t n_rows, const ReferenceWeight& weight, Epilogue epilogue, Activation& out) {
  const int64_t k = weight.cols, n = epilogue == Epilogue::kSiluMul ? weight.rows / 2 : weight.rows;
  for (int64_t i = 0; i < n; ++i) {  // rows of the weight outermost: each is read once a step
    for (int64_t r = 0; r < n_rows; ++r) {
      const float product = dot(x.row(r), weight.row(i), k);
      float& to = out.row(r)[i];
      switch (epilogue) {
        case Epilogue::kStore:
          to = round_to(out.dtype, product);
          break;
        case Epilogue::kAddTo:
          to = round_to(out.dtype, to + product);
          break;
        case Epilogue::kSiluMul:
          to = round_to(out.dtype, silu_f32(product) * dot(x.row(r), weight.row(n + i), k));
          break;
      }
    }
  }
}

}  // namespace qwen3::reference
