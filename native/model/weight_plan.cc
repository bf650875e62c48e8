#include "model/weight_plan.h"

#include <initializer_list>
#include <utility>

namespace qwen3 {
namespace {

class Planner {
 public:
  Planner(const ModelConfig& config, const WeightFormats& formats) : c_(config), formats_(formats) {}

  WeightPlan run() {
    const TensorSpec table{"model.embed_tokens.weight", c_.vocab, c_.hidden};
    plan_.embedding = add(WeightUse::kEmbedding, formats_.embedding, {table});
    for (int32_t i = 0; i < c_.n_layers; ++i) plan_.layers.push_back(layer(i));
    plan_.final_norm = vector("model.norm.weight", c_.hidden);
    // A tied checkpoint may carry lm_head.weight all the same; it is not read.
    if (!c_.tied_embeddings) {
      plan_.lm_head = add(WeightUse::kLinear, formats_.head, {{"lm_head.weight", c_.vocab, c_.hidden}});
    } else if (formats_.head == formats_.embedding) {
      plan_.lm_head = plan_.embedding;
    } else {
      plan_.lm_head = add(WeightUse::kLinear, formats_.head, {table});
    }
    return std::move(plan_);
  }

 private:
  WeightId add(WeightUse use, WeightFormat format, std::initializer_list<TensorSpec> tensors) {
    WeightSpec spec{use, format, tensors, 0, tensors.begin()->cols};
    for (const TensorSpec& tensor : tensors) spec.rows += tensor.rows;
    plan_.specs.push_back(std::move(spec));
    return static_cast<WeightId>(plan_.specs.size()) - 1;
  }

  WeightId linear(std::initializer_list<TensorSpec> tensors) {
    return add(WeightUse::kLinear, formats_.weights, tensors);
  }

  WeightId vector(const std::string& name, int64_t n) {
    return add(WeightUse::kVector, WeightFormat::kF32, {{name, n, 1, true}});
  }

  LayerWeights layer(int32_t i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".", attn = prefix + "self_attn.";
    const int64_t q = int64_t{c_.n_q_heads} * c_.head_dim, kv = int64_t{c_.n_kv_heads} * c_.head_dim;
    LayerWeights w;
    w.input_norm = vector(prefix + "input_layernorm.weight", c_.hidden);
    w.qkv = linear({{attn + "q_proj.weight", q, c_.hidden},
                    {attn + "k_proj.weight", kv, c_.hidden},
                    {attn + "v_proj.weight", kv, c_.hidden}});
    w.q_norm = vector(attn + "q_norm.weight", c_.head_dim);
    w.k_norm = vector(attn + "k_norm.weight", c_.head_dim);
    w.o = linear({{attn + "o_proj.weight", c_.hidden, q}});
    w.post_norm = vector(prefix + "post_attention_layernorm.weight", c_.hidden);
    if (!c_.moe_layer[i]) {
      w.gate_up = gate_up(prefix + "mlp.", c_.ffn);
      w.down = linear({{prefix + "mlp.down_proj.weight", c_.hidden, c_.ffn}});
      return w;
    }
    w.router = add(WeightUse::kLinear, formats_.router(), {{prefix + "mlp.gate.weight", c_.n_experts, c_.hidden}});
    for (int32_t e = 0; e < c_.n_experts; ++e) {
      const std::string expert = prefix + "mlp.experts." + std::to_string(e) + ".";
      w.expert_gate_up.push_back(gate_up(expert, c_.moe_ffn));
      w.expert_down.push_back(linear({{expert + "down_proj.weight", c_.hidden, c_.moe_ffn}}));
    }
    return w;
  }

  WeightId gate_up(const std::string& prefix, int64_t ffn) {
    return add(WeightUse::kGateUp, formats_.weights,
               {{prefix + "gate_proj.weight", ffn, c_.hidden}, {prefix + "up_proj.weight", ffn, c_.hidden}});
  }

  const ModelConfig& c_;
  const WeightFormats& formats_;
  WeightPlan plan_;
};

}  // namespace

WeightPlan plan_weights(const ModelConfig& config, const WeightFormats& formats) {
  return Planner(config, formats).run();
}

}  // namespace qwen3
