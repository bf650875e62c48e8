#include <algorithm>

#include "core/math.h"
#include "cpu/reference/reference.h"

namespace qwen3::reference {
namespace {

struct Choice {
  int32_t expert;
  float weight;
};

// Softmax over all experts, then the top_k largest, ties to the lower id, in descending order.
std::vector<Choice> route(const MoeOp& op, const float* x, const ReferenceWeight& router) {
  const int64_t n = router.rows;
  std::vector<float> p(static_cast<size_t>(n));
  for (int64_t e = 0; e < n; ++e) p[e] = dot(x, router.row(e), router.cols);
  const float largest = *std::max_element(p.begin(), p.end());
  float total = 0;
  for (float& value : p) total += value = exp_f32(value - largest);
  for (float& value : p) value /= total;

  std::vector<Choice> chosen;
  float chosen_total = 0;
  for (int32_t rank = 0; rank < op.top_k; ++rank) {
    const int32_t best = static_cast<int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
    chosen.push_back({best, p[best]});
    chosen_total += p[best];
    p[best] = -1.0f;  // below every probability
  }
  if (op.norm_topk_prob) {
    for (Choice& choice : chosen) choice.weight /= chosen_total;
  }
  return chosen;
}

}  // namespace

// out[r, :] += sum over ranks of weight * down_e(silu(gate_e x) * up_e x)
void moe(const MoeOp& op, const Activation& x, int64_t n_rows, const ReferenceWeight& router,
         std::span<const Expert> experts, Activation& out, int64_t* counts) {
  std::vector<float> hidden, sum(static_cast<size_t>(out.cols));
  for (int64_t r = 0; r < n_rows; ++r) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (const Choice& choice : route(op, x.row(r), router)) {
      const Expert& expert = experts[static_cast<size_t>(choice.expert)];
      const int64_t ffn = expert.down->cols;
      hidden.resize(static_cast<size_t>(ffn));
      const std::vector<float> in = product_input(x.row(r), 1, *expert.gate_up);
      for (int64_t i = 0; i < ffn; ++i) {
        const float gate = dot(in.data(), expert.gate_up->row(i), x.cols);
        const float up = dot(in.data(), expert.gate_up->row(ffn + i), x.cols);
        hidden[i] = round_to(x.dtype, silu_f32(gate) * up);
      }
      hidden = product_input(hidden.data(), 1, *expert.down);
      for (int64_t i = 0; i < out.cols; ++i) sum[i] += choice.weight * dot(hidden.data(), expert.down->row(i), ffn);
      ++counts[choice.expert];
    }
    for (int64_t i = 0; i < out.cols; ++i) out.row(r)[i] += sum[i];
  }
}

}  // namespace qwen3::reference
