#include "model/weight_plan.h"

#include <initializer_list>
#include <utility>

namespace qwen3 {
namespace {

class Planner {
 public:
  explicit Planner(const ModelConfig& config) : c_(config) {}

  WeightPlan run() {
    plan_.embedding = add(WeightUse::kEmbedding, {{"model.embed_tokens.weight", c_.vocab, c_.hidden}});
    for (int32_t i = 0; i < c_.n_layers; ++i) plan_.layers.push_back(layer(i));
    plan_.final_norm = vector("model.norm.weight", c_.hidden);
    // A tied checkpoint may carry lm_head.weight all the same; it is not read.
    plan_.lm_head =
        c_.tied_embeddings ? plan_.embedding : add(WeightUse::kLinear, {{"lm_head.weight", c_.vocab, c_.hidden}});
    return std::move(plan_);
  }

 private:
  WeightId add(WeightUse use, std::initializer_list<TensorSpec> tensors) {
    WeightSpec spec{use, tensors, 0, tensors.begin()->cols};
    for (const TensorSpec& tensor : tensors) spec.rows += tensor.rows;
    plan_.specs.push_back(std::move(spec));
    return static_cast<WeightId>(plan_.specs.size()) - 1;
  }

  WeightId vector(const std::string& name, int64_t n) { return add(WeightUse::kVector, {{name, n, 1, true}}); }

  LayerWeights layer(int32_t i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".", attn = prefix + "self_attn.";
    const int64_t q = int64_t{c_.n_q_heads} * c_.head_dim, kv = int64_t{c_.n_kv_heads} * c_.head_dim;
    LayerWeights w;
    w.input_norm = vector(prefix + "input_layernorm.weight", c_.hidden);
    w.qkv = add(WeightUse::kLinear, {{attn + "q_proj.weight", q, c_.hidden},
                                     {attn + "k_proj.weight", kv, c_.hidden},
                                     {attn + "v_proj.weight", kv, c_.hidden}});
    w.q_norm = vector(attn + "q_norm.weight", c_.head_dim);
    w.k_norm = vector(attn + "k_norm.weight", c_.head_dim);
    w.o = add(WeightUse::kLinear, {{attn + "o_proj.weight", c_.hidden, q}});
    w.post_norm = vector(prefix + "post_attention_layernorm.weight", c_.hidden);
    if (!c_.moe_layer[i]) {
      w.gate_up = gate_up(prefix + "mlp.", c_.ffn);
      w.down = add(WeightUse::kLinear, {{prefix + "mlp.down_proj.weight", c_.hidden, c_.ffn}});
      return w;
    }
    w.router = add(WeightUse::kLinear, {{prefix + "mlp.gate.weight", c_.n_experts, c_.hidden}});
    for (int32_t e = 0; e < c_.n_experts; ++e) {
      const std::string expert = prefix + "mlp.experts." + std::to_string(e) + ".";
      w.expert_gate_up.push_back(gate_up(expert, c_.moe_ffn));
      w.expert_down.push_back(add(WeightUse::kLinear, {{expert + "down_proj.weight", c_.hidden, c_.moe_ffn}}));
    }
    return w;
  }

  WeightId gate_up(const std::string& prefix, int64_t ffn) {
    return add(WeightUse::kGateUp,
               {{prefix + "gate_proj.weight", ffn, c_.hidden}, {prefix + "up_proj.weight", ffn, c_.hidden}});
  }

  const ModelConfig& c_;
  WeightPlan plan_;
};

}  // namespace

WeightPlan plan_weights(const ModelConfig& config) {
  return Planner(config).run();
}

}  // namespace qwen3
