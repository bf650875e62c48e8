#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/dtype.h"

namespace qwen3 {

// forward() is recorded once as a flat program over numbered buffers and weights; a Backend compiles it into whatever
// runs fastest there. Shapes are [n_rows, cols] with n_rows known only per step.
using BufferId = int32_t;
using WeightId = int32_t;
constexpr int32_t kNoId = -1;

struct BufferDesc {
  std::string name;  // "residual", "normed", "qkv", ...; reused by every layer
  int64_t cols = 0;
  // The element type of the value: kF32 for the residual stream, router and logits; the linear input type (kBF16 or
  // kF32, see Program::linear_input) for everything that feeds a product of matrices.
  DType dtype = DType::kF32;
};

// out[r, :] = table[tokens[r], :]                                         out: f32 residual
struct EmbedOp {
  WeightId table;
  BufferId out;
};

// out[r, i] = x[r, i] / sqrt(mean_j x[r, j]^2 + eps) * weight[i]          x: f32, statistics in f32
struct RmsNormOp {
  BufferId x;
  WeightId weight;
  BufferId out;
  float eps;
};

enum class Epilogue : uint8_t {
  kStore,    // out = x W^T
  kAddTo,    // out += x W^T                                              out: f32 residual
  kSiluMul,  // W = [gate; up]: out = silu(x gate^T) * (x up^T)
};
// x: [n_rows, k], weight: [n, k] row major as in the checkpoint, f32 accumulation along k in one order for any n_rows.
struct LinearOp {
  BufferId x;
  WeightId weight;
  BufferId out;
  Epilogue epilogue;
};

// One pass over the fused projection qkv [n_rows, (n_q_heads + 2 n_kv_heads) * head_dim] (f32):
// q' = rope(rms_norm(q, q_norm)), k' = rope(rms_norm(k, k_norm)); k' and v go to the paged cache of `layer`, q' to
// q_out. Rotate-half RoPE at the row's absolute position from the sequence's rope table.
struct QkNormRopeAppendOp {
  BufferId qkv;
  WeightId q_norm;
  WeightId k_norm;
  BufferId q_out;
  int32_t layer;
  float eps;
};

// Causal grouped-query attention over the paged cache, scale 1/sqrt(head_dim), online softmax over key blocks of 64 at
// absolute positions, partial results of every kSplitSize keys combined in ascending order.
struct AttentionOp {
  BufferId q;
  BufferId out;
  int32_t layer;
};

// Router: softmax over ALL experts in f32, top_k (ties to the lower id), divided by their sum when norm_topk_prob.
// out[r, :] += sum over ranks of weight * down_e(silu(gate_e x) * up_e x), in rank order.
struct MoeOp {
  BufferId x;
  WeightId router;
  std::vector<WeightId> gate_up;  // per expert, [2 ffn, hidden]
  std::vector<WeightId> down;     // per expert, [hidden, ffn]
  BufferId out;
  int32_t top_k;
  bool norm_topk_prob;
  int32_t layer;
};

// Final norm has run: logits[i, :] = x[logits_rows[i], :] W^T, only for the rows asked for.
struct LogitsOp {
  BufferId x;
  WeightId weight;
};

using Op = std::variant<EmbedOp, RmsNormOp, LinearOp, QkNormRopeAppendOp, AttentionOp, MoeOp, LogitsOp>;

struct Program {
  std::vector<BufferDesc> buffers;
  std::vector<Op> ops;
  // "layers.3.attention", one per operation: the name under which the buffer that it wrote is observed.
  std::vector<std::string> op_names;
  int32_t n_layers = 0, n_q_heads = 0, n_kv_heads = 0, head_dim = 0, hidden = 0, vocab = 0, n_experts = 0;
  DType linear_input = DType::kBF16;
  // cos and sin per position for each rope table: inverse frequencies [head_dim / 2] (f64) and the factor that both are
  // multiplied by (YaRN's attention factor; 1 unscaled). rope_tables[0] is unscaled.
  struct RopeTable {
    std::vector<double> inv_freq;
    double factor = 1.0;
  };
  std::vector<RopeTable> rope_tables;
};

}  // namespace qwen3
