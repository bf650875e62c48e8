#include "cuda/client/flat_program.h"

namespace qwen3 {
namespace {

qwen3_cuda_op flat_op() {
  qwen3_cuda_op flat{};
  flat.x = flat.out = flat.weight = flat.weight_2 = kNoId;
  return flat;
}

struct Flatten {
  qwen3_cuda_op operator()(const EmbedOp& op) const {
    auto flat = flat_op();
    flat.weight = op.table, flat.out = op.out;
    return flat;
  }
  qwen3_cuda_op operator()(const RmsNormOp& op) const {
    auto flat = flat_op();
    flat.x = op.x, flat.weight = op.weight, flat.out = op.out, flat.eps = op.eps;
    return flat;
  }
  qwen3_cuda_op operator()(const LinearOp& op) const {
    auto flat = flat_op();
    flat.x = op.x, flat.weight = op.weight, flat.out = op.out, flat.epilogue = static_cast<int32_t>(op.epilogue);
    return flat;
  }
  qwen3_cuda_op operator()(const QkNormRopeAppendOp& op) const {
    auto flat = flat_op();
    flat.x = op.qkv, flat.weight = op.q_norm, flat.weight_2 = op.k_norm, flat.out = op.q_out;
    flat.layer = op.layer, flat.eps = op.eps;
    return flat;
  }
  qwen3_cuda_op operator()(const AttentionOp& op) const {
    auto flat = flat_op();
    flat.x = op.q, flat.out = op.out, flat.layer = op.layer;
    return flat;
  }
  qwen3_cuda_op operator()(const MoeOp& op) const {
    auto flat = flat_op();
    flat.x = op.x, flat.weight = op.router, flat.out = op.out, flat.layer = op.layer;
    flat.gate_up = op.gate_up.data(), flat.down = op.down.data();
    flat.top_k = op.top_k, flat.norm_topk_prob = op.norm_topk_prob ? 1 : 0;
    return flat;
  }
  qwen3_cuda_op operator()(const LogitsOp& op) const {
    auto flat = flat_op();
    flat.x = op.x, flat.weight = op.weight;
    return flat;
  }
};

}  // namespace

FlatProgram::FlatProgram(const Program& p) {
  for (const BufferDesc& b : p.buffers) buffers_.push_back({b.cols, static_cast<int32_t>(b.dtype)});
  for (const Op& op : p.ops) {
    ops_.push_back(std::visit(Flatten{}, op));
    ops_.back().kind = static_cast<int32_t>(op.index());
  }
  for (const Program::RopeTable& t : p.rope_tables) rope_tables_.push_back({t.inv_freq.data(), t.factor});
  flat_.n_buffers = static_cast<int32_t>(buffers_.size());
  flat_.n_ops = static_cast<int32_t>(ops_.size());
  flat_.n_rope_tables = static_cast<int32_t>(rope_tables_.size());
  flat_.buffers = buffers_.data(), flat_.ops = ops_.data(), flat_.rope_tables = rope_tables_.data();
  flat_.n_layers = p.n_layers, flat_.n_q_heads = p.n_q_heads, flat_.n_kv_heads = p.n_kv_heads;
  flat_.head_dim = p.head_dim, flat_.hidden = p.hidden, flat_.vocab = p.vocab, flat_.n_experts = p.n_experts;
}

}  // namespace qwen3
