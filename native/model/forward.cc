#include <algorithm>
#include <string>
#include <utility>

#include "model/model.h"
#include "model/weight_plan.h"

namespace qwen3 {
namespace {

// Appends operations to a program, each under the name of what it computes.
class Recorder {
 public:
  explicit Recorder(Program& program) : program_(program) {}

  BufferId buffer(const char* name, int64_t cols, DType dtype) {
    program_.buffers.push_back({name, cols, dtype});
    return static_cast<BufferId>(program_.buffers.size()) - 1;
  }
  void layer(int32_t i) { prefix_ = "layers." + std::to_string(i) + "."; }
  void end_layers() { prefix_.clear(); }
  void operator()(const char* name, Op op) {
    program_.ops.push_back(std::move(op));
    program_.op_names.push_back(prefix_ + name);
  }

 private:
  Program& program_;
  std::string prefix_;
};

}  // namespace

std::shared_ptr<const Program> record_forward(const ModelConfig& c, const std::optional<YarnConfig>& yarn,
                                              const WeightFormats& formats) {
  const DType linear_input = formats.linear_input();
  auto program = std::make_shared<Program>();
  Program& p = *program;
  p.n_layers = c.n_layers, p.n_q_heads = c.n_q_heads, p.n_kv_heads = c.n_kv_heads, p.head_dim = c.head_dim;
  p.hidden = c.hidden, p.vocab = c.vocab, p.n_experts = c.n_experts, p.linear_input = linear_input;
  p.rope_tables.push_back(rope_table(c, std::nullopt));
  if (yarn) p.rope_tables.push_back(rope_table(c, yarn));

  const int64_t q_cols = int64_t{c.n_q_heads} * c.head_dim, kv_cols = int64_t{c.n_kv_heads} * c.head_dim;
  const float eps = c.rms_norm_eps;
  const WeightPlan w = plan_weights(c, formats);
  Recorder record(p);
  const BufferId x = record.buffer("residual", c.hidden, DType::kF32);
  const BufferId normed = record.buffer("normed", c.hidden, linear_input);
  const BufferId qkv = record.buffer("qkv", q_cols + 2 * kv_cols, DType::kF32);
  const BufferId q = record.buffer("q", q_cols, linear_input);
  const BufferId attended = record.buffer("attended", q_cols, linear_input);
  const bool any_dense = std::count(c.moe_layer.begin(), c.moe_layer.end(), uint8_t{0}) > 0;
  const BufferId ffn = any_dense ? record.buffer("ffn", c.ffn, linear_input) : kNoId;
  const BufferId final_normed =
      formats.head_input() == linear_input ? normed : record.buffer("final_normed", c.hidden, formats.head_input());

  record("embed", EmbedOp{w.embedding, x});
  for (int32_t i = 0; i < c.n_layers; ++i) {
    const LayerWeights& l = w.layers[i];
    record.layer(i);
    record("attention_norm", RmsNormOp{x, l.input_norm, normed, eps});
    record("qkv", LinearOp{normed, l.qkv, qkv, Epilogue::kStore});
    record("q_rope", QkNormRopeAppendOp{qkv, l.q_norm, l.k_norm, q, i, eps});
    record("attention", AttentionOp{q, attended, i});
    record("attention_residual", LinearOp{attended, l.o, x, Epilogue::kAddTo});
    record("ffn_norm", RmsNormOp{x, l.post_norm, normed, eps});
    if (c.moe_layer[i]) {
      record("moe_residual",
             MoeOp{normed, l.router, l.expert_gate_up, l.expert_down, x, c.top_k_experts, c.norm_topk_prob, i});
    } else {
      record("ffn", LinearOp{normed, l.gate_up, ffn, Epilogue::kSiluMul});
      record("ffn_residual", LinearOp{ffn, l.down, x, Epilogue::kAddTo});
    }
  }
  record.end_layers();
  record("final_norm", RmsNormOp{x, w.final_norm, final_normed, eps});
  record("logits", LogitsOp{final_normed, w.lm_head});
  return program;
}

}  // namespace qwen3
