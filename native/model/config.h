#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace qwen3 {

struct YarnConfig {
  double factor = 4.0;
  double original_max_position_embeddings = 32768;
  double beta_fast = 32, beta_slow = 1;
  std::optional<double> attention_factor = {};  // unset: 0.1 ln(factor) + 1   (YaRN, arXiv 2309.00071, section 3.4)

  // Throws Error(kInvalidArgument, field at fault).
  void validate() const;
};

// The fields of a Qwen3 or Qwen3-MoE config.json that change the result; validated by lib/weights and again here.
struct ModelConfig {
  int32_t n_layers = 0, hidden = 0, n_q_heads = 0, n_kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  float rms_norm_eps = 1e-6f;
  double rope_theta = 0;
  bool tied_embeddings = false;
  // Window that runs unscaled; contextLength beyond it needs yarn.
  int32_t native_window = 0;
  std::optional<YarnConfig> yarn;
  // Mixture of experts; n_experts 0 = dense. moe_layer[i]: layer i is sparse.
  int32_t n_experts = 0, top_k_experts = 0, moe_ffn = 0;
  bool norm_topk_prob = true;
  std::vector<uint8_t> moe_layer;

  // Throws Error(kInvalidArgument, field at fault): zero or non-dividing heads, odd head_dim, absurd sizes, overflow.
  void validate() const;
};

}  // namespace qwen3
