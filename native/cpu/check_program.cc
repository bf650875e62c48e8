#include <string>

#include "core/status.h"
#include "cpu/executable.h"

namespace qwen3::cpu {

void CpuExecutable::require(bool holds, const char* what) {
  if (!holds)
    throw Error(ErrorCode::kInternal, std::string("the CPU backend was given a bad program or step: ") + what);
}

const CpuExecutable::Activation& CpuExecutable::checked_buffer(BufferId id) const {
  require(id >= 0 && static_cast<size_t>(id) < buffers_.size(), "no such buffer");
  return buffer(id);
}

void CpuExecutable::check_vector(WeightId id, int64_t n) const {
  require(id >= 0 && static_cast<size_t>(id) < weights_.size(), "no such weight");
  require(weight(id).use == WeightUse::kVector && weight(id).rows * weight(id).cols == n, "a norm weight's size");
}

void CpuExecutable::check_matrix(WeightId id, WeightUse use, int64_t rows, int64_t cols) const {
  require(id >= 0 && static_cast<size_t>(id) < weights_.size(), "no such weight");
  const PackedWeight& w = weight(id);
  require(w.use == use || (use == WeightUse::kLinear && w.use == WeightUse::kEmbedding), "a weight's use");
  require(w.rows == rows && w.cols == cols, "a weight's shape");
}

void CpuExecutable::check(const EmbedOp& op) const {
  check_matrix(op.table, WeightUse::kEmbedding, program_->vocab, checked_buffer(op.out).cols);
  require(buffer(op.out).store == Store::kF32, "embed writes f32");
}

void CpuExecutable::check(const RmsNormOp& op) const {
  check_vector(op.weight, checked_buffer(op.x).cols);
  require(checked_buffer(op.out).cols == buffer(op.x).cols && buffer(op.x).store == Store::kF32, "rms_norm");
}

void CpuExecutable::check(const LinearOp& op) const {
  const bool gated = op.epilogue == Epilogue::kSiluMul;
  const int64_t rows = checked_buffer(op.out).cols * (gated ? 2 : 1);
  check_matrix(op.weight, gated ? WeightUse::kGateUp : WeightUse::kLinear, rows, checked_buffer(op.x).cols);
  require(op.epilogue != Epilogue::kAddTo || buffer(op.out).store == Store::kF32, "the residual is f32");
  require(op.x != op.out, "linear in place");
}

void CpuExecutable::check(const QkNormRopeAppendOp& op) const {
  const Program& p = *program_;
  check_vector(op.q_norm, p.head_dim);
  check_vector(op.k_norm, p.head_dim);
  const int64_t heads = int64_t{p.n_q_heads} + 2 * int64_t{p.n_kv_heads};
  require(checked_buffer(op.qkv).cols == heads * p.head_dim && buffer(op.qkv).store == Store::kF32, "qkv");
  require(checked_buffer(op.q_out).cols == int64_t{p.n_q_heads} * p.head_dim, "q");
  require(op.layer >= 0 && op.layer < p.n_layers, "a layer");
}

void CpuExecutable::check(const AttentionOp& op) const {
  const int64_t cols = int64_t{program_->n_q_heads} * program_->head_dim;
  require(checked_buffer(op.q).cols == cols && checked_buffer(op.out).cols == cols, "attention");
  require(op.layer >= 0 && op.layer < program_->n_layers, "a layer");
}

void CpuExecutable::check(const MoeOp& op) const {
  const size_t n = static_cast<size_t>(program_->n_experts);
  require(n > 0 && op.gate_up.size() == n && op.down.size() == n, "experts");
  require(op.top_k > 0 && op.top_k <= program_->n_experts, "top_k");
  require(op.layer >= 0 && op.layer < program_->n_layers, "a layer");
  const int64_t hidden = checked_buffer(op.x).cols;
  require(checked_buffer(op.out).cols == hidden && buffer(op.out).store == Store::kF32, "moe");
  check_matrix(op.router, WeightUse::kLinear, program_->n_experts, hidden);
  require(op.down[0] >= 0 && static_cast<size_t>(op.down[0]) < weights_.size(), "no such weight");
  const int64_t ffn = weight(op.down[0]).cols;
  for (size_t e = 0; e < n; ++e) {
    check_matrix(op.down[e], WeightUse::kLinear, hidden, ffn);
    check_matrix(op.gate_up[e], WeightUse::kGateUp, 2 * ffn, hidden);
  }
}

void CpuExecutable::check(const LogitsOp& op) const {
  check_matrix(op.weight, WeightUse::kLinear, program_->vocab, checked_buffer(op.x).cols);
  require(buffer(op.x).cols == program_->hidden && buffer(op.x).store == logits_input_.store, "logits");
}

void CpuExecutable::check_program() const {
  for (const Op& op : program_->ops) std::visit([this](const auto& concrete) { check(concrete); }, op);
  require(!program_->rope_tables.empty(), "no rope table");
  for (const Program::RopeTable& table : program_->rope_tables) {
    require(table.inv_freq.size() == static_cast<size_t>(program_->head_dim / 2), "a rope table's size");
  }
}

}  // namespace qwen3::cpu
