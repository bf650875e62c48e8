#include "model/config.h"

#include <cmath>
#include <string>

#include "core/checked.h"
#include "core/status.h"

namespace qwen3 {
namespace {

[[noreturn]] void refuse(const std::string& field, const std::string& expected, const std::string& received) {
  throw Error(ErrorCode::kInvalidArgument, field + " must be " + expected + ", received " + received, field);
}

void in_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  refuse(field, "between " + std::to_string(low) + " and " + std::to_string(high), std::to_string(value));
}

void positive(const char* field, double value) {
  if (!(value > 0) || !std::isfinite(value)) refuse(field, "a positive number", std::to_string(value));
}

void validate_experts(const ModelConfig& c) {
  in_range("num_experts", c.n_experts, 0, 1 << 14);
  if (c.moe_layer.size() != static_cast<size_t>(c.n_layers)) {
    refuse("moe_layer", "one flag for each of " + std::to_string(c.n_layers) + " layers",
           std::to_string(c.moe_layer.size()) + " flags");
  }
  bool sparse = false, dense = false;
  for (const uint8_t flag : c.moe_layer) (flag ? sparse : dense) = true;
  if (dense) in_range("intermediate_size", c.ffn, 1, int64_t{1} << 22);
  if (!sparse) return;
  if (c.n_experts == 0) refuse("num_experts", "positive when a layer is sparse", "0");
  in_range("num_experts_per_tok", c.top_k_experts, 1, c.n_experts);
  in_range("moe_intermediate_size", c.moe_ffn, 1, int64_t{1} << 22);
  in_range("num_experts * num_hidden_layers", int64_t{c.n_experts} * c.n_layers, 1, int64_t{1} << 20);
}

// Every size that is later formed from the fields divides this sum, so none of them can overflow.
void validate_total(const ModelConfig& c) {
  const int64_t q = checked_mul(c.n_q_heads, c.head_dim), kv = checked_mul(c.n_kv_heads, c.head_dim);
  const int64_t attention = checked_mul(c.hidden, checked_add(checked_mul(2, q), checked_mul(2, kv)));
  const int64_t dense = checked_mul(3, checked_mul(c.hidden, c.ffn));
  const int64_t sparse =
      checked_mul(c.n_experts, checked_add(c.hidden, checked_mul(3, checked_mul(c.hidden, c.moe_ffn))));
  const int64_t layer = checked_add(attention, checked_add(dense, sparse));
  const int64_t total = checked_add(checked_mul(c.n_layers, layer), checked_mul(2, checked_mul(c.vocab, c.hidden)));
  checked_mul(total, 8);
}

}  // namespace

void YarnConfig::validate() const {
  if (!(factor >= 1) || !std::isfinite(factor)) {
    refuse("rope_scaling.factor", "a finite number of at least 1", std::to_string(factor));
  }
  positive("rope_scaling.original_max_position_embeddings", original_max_position_embeddings);
  positive("rope_scaling.beta_fast", beta_fast);
  positive("rope_scaling.beta_slow", beta_slow);
  if (beta_fast <= beta_slow) {
    refuse("rope_scaling.beta_fast", "greater than beta_slow", std::to_string(beta_fast));
  }
  if (attention_factor) positive("rope_scaling.attention_factor", *attention_factor);
}

void ModelConfig::validate() const {
  // Bounds far above every published model: they keep counts of objects small and products inside 64 bits.
  in_range("num_hidden_layers", n_layers, 1, 4096);
  in_range("hidden_size", hidden, 1, 1 << 20);
  in_range("num_attention_heads", n_q_heads, 1, 1 << 14);
  in_range("num_key_value_heads", n_kv_heads, 1, 1 << 14);
  if (n_q_heads % n_kv_heads != 0) {
    refuse("num_key_value_heads", "a divisor of num_attention_heads (" + std::to_string(n_q_heads) + ")",
           std::to_string(n_kv_heads));
  }
  in_range("head_dim", head_dim, 2, 4096);
  if (head_dim % 2 != 0) refuse("head_dim", "even (RoPE rotates pairs)", std::to_string(head_dim));
  in_range("vocab_size", vocab, 1, 1 << 24);
  in_range("native_window", native_window, 1, 1 << 30);
  in_range("intermediate_size", ffn, 0, int64_t{1} << 22);
  in_range("moe_intermediate_size", moe_ffn, 0, int64_t{1} << 22);
  positive("rms_norm_eps", static_cast<double>(rms_norm_eps));
  if (!(rope_theta > 1) || !std::isfinite(rope_theta)) {
    refuse("rope_theta", "a finite number above 1", std::to_string(rope_theta));
  }
  validate_experts(*this);
  if (yarn) yarn->validate();
  try {
    validate_total(*this);
  } catch (const Error& error) {
    throw Error(error.code(), error.what(), "num_hidden_layers * hidden_size");
  }
}

}  // namespace qwen3
