#include "cpu/executable.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/checked.h"
#include "core/status.h"
#include "cpu/weights_int.h"
#include "ops/check_batch.h"

namespace qwen3::cpu {
CpuExecutable::CpuExecutable(std::shared_ptr<ThreadPool> pool, const KernelTable& kernels,
                             std::shared_ptr<const Program> program, std::vector<std::shared_ptr<const Weight>> weights,
                             int64_t max_rows, int64_t max_positions)
    : pool_(std::move(pool)),
      kernels_(kernels),
      program_(std::move(program)),
      weights_(std::move(weights)),
      max_rows_(max_rows),
      max_positions_(max_positions) {
  const Program& p = *program_;
  require(max_rows > 0 && max_positions > 0, "max_rows and max_positions must be positive");
  require(p.n_kv_heads > 0 && p.n_q_heads % p.n_kv_heads == 0 && p.head_dim > 0 && p.head_dim % 2 == 0, "head counts");
  native_bf16_ = kernels_.bf16_products;
  for (const auto& shared : weights_) {
    const auto* w = dynamic_cast<const PackedWeight*>(shared.get());
    require(w != nullptr, "a weight was packed by another backend");
    if (w->use != WeightUse::kVector && w->format != WeightFormat::kBF16) native_bf16_ = false;
  }
  for (const BufferDesc& desc : p.buffers) buffers_.push_back(activation(max_rows, desc.cols, desc.dtype));
  for (const Op& op : p.ops) {
    const auto* logits = std::get_if<LogitsOp>(&op);
    if (!logits) continue;
    checked_buffer(logits->x);
    logits_input_ = activation(max_rows, p.hidden, p.buffers[static_cast<size_t>(logits->x)].dtype);
  }
  check_program();

  row_position_.resize(static_cast<size_t>(max_rows));
  row_sequence_.resize(static_cast<size_t>(max_rows));
  cosine_ = Buffer(checked_mul(max_rows, p.head_dim / 2) * 4);
  sine_ = Buffer(checked_mul(max_rows, p.head_dim / 2) * 4);
  const int32_t v_cols = (p.head_dim + 15) / 16 * 16;
  plan_ = AttentionPlan(max_rows, max_positions, p.n_q_heads, p.n_kv_heads, v_cols, pool_->size());
  partials_ = Buffer(plan_.partial_floats() * 4);
  const int64_t tile_rows = int64_t{plan_.tile_positions()} * plan_.group();
  for (int i = 0; i < pool_->size(); ++i) scratch_.emplace_back(attention_scratch_bytes(tile_rows, p.head_dim));
  prepare_moe();
  prepare_quantised();
  prepare_own_norms();
}

// Room for the largest quantised input of any product. Experts' rows are top_k times as many.
void CpuExecutable::prepare_quantised() {
  const int64_t rows = checked_mul(max_rows_, std::max<int64_t>(1, moe_.top_k));
  int64_t all = 0, own = 0;
  for (const auto& shared : weights_) {
    const auto& w = static_cast<const PackedWeight&>(*shared);
    if (w.use == WeightUse::kVector || !is_integer(w.format)) continue;
    all = std::max(all, QuantisedRows(kernels_, w.format, w.cols, rows).bytes);
    own = std::max(own, QuantisedRows(kernels_, w.format, w.cols, kOwnRows).bytes);
  }
  if (all == 0) return;
  quantised_ = Buffer(all);
  for (int i = 0; i < pool_->size(); ++i) own_quantised_.emplace_back(own);
}

// Which norms each thread may compute for itself when rows are few: the next operation is the only one that reads it.
void CpuExecutable::prepare_own_norms() {
  const auto reads = [](const Op& op, BufferId id) {
    return std::visit(
        [id](const auto& o) {
          using T = std::decay_t<decltype(o)>;
          if constexpr (std::is_same_v<T, EmbedOp>) return false;
          if constexpr (std::is_same_v<T, QkNormRopeAppendOp>) return o.qkv == id;
          if constexpr (std::is_same_v<T, AttentionOp>) return o.q == id;
          if constexpr (requires { o.x; }) return o.x == id;
        },
        op);
  };
  const std::vector<Op>& ops = program_->ops;
  feeds_next_.assign(ops.size(), false);
  BufferId own = kNoId;
  for (size_t i = 0; i + 1 < ops.size(); ++i) {
    const auto* norm = std::get_if<RmsNormOp>(&ops[i]);
    const auto* product = std::get_if<LinearOp>(&ops[i + 1]);
    if (!norm || !product || product->x != norm->out || product->out == norm->x) continue;
    if (own != kNoId && own != norm->out) continue;
    bool alone = true;
    for (size_t j = i + 2; j < ops.size() && alone; ++j) {
      const auto* next = std::get_if<RmsNormOp>(&ops[j]);
      if (next && next->out == norm->out && next->x != norm->out) break;
      alone = !reads(ops[j], norm->out);
    }
    feeds_next_[i] = alone;
    if (alone) own = norm->out;
  }
  if (own == kNoId) return;
  const BufferDesc& desc = program_->buffers[static_cast<size_t>(own)];
  for (int i = 0; i < pool_->size(); ++i) own_normed_.push_back(activation(kOwnRows, desc.cols, desc.dtype));
}

CpuExecutable::Activation CpuExecutable::activation(int64_t rows, int64_t cols, DType dtype) const {
  require(cols > 0 && (dtype == DType::kF32 || dtype == DType::kBF16), "buffers are f32 or bf16 and not empty");
  Activation a;
  a.cols = cols;
  a.store = dtype == DType::kF32 ? Store::kF32 : native_bf16_ ? Store::kBf16 : Store::kRounded;
  int64_t lines = checked_add(checked_mul(cols, a.element()), 63) / 64;
  lines += 1 - lines % 2;
  a.stride = lines * 64 / a.element();
  a.memory = Buffer(checked_mul(rows, lines * 64));
  return a;
}

const PackedWeight& CpuExecutable::weight(WeightId id) const {
  return static_cast<const PackedWeight&>(*weights_[static_cast<size_t>(id)]);
}

CpuExecutable::LinearKernel CpuExecutable::linear_kernel(Store x, WeightFormat format) const {
  if (format == WeightFormat::kInt8) return kernels_.linear_int8;
  if (format == WeightFormat::kInt4) return kernels_.linear_int4;
  if (format == WeightFormat::kInt4Offset) return kernels_.linear_int4_offset;
  if (x == Store::kBf16) return kernels_.linear_bf16_bf16;
  return format == WeightFormat::kF32 ? kernels_.linear_f32_f32 : kernels_.linear_f32_bf16;
}

void CpuExecutable::prepare(const StepBatch& batch) {
  n_rows_ = static_cast<int64_t>(batch.tokens.size());
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const StepSequence& s = batch.sequences[i];
    for (int32_t r = 0; r < s.n_rows; ++r) {
      row_position_[static_cast<size_t>(s.row_begin + r)] = s.position_begin + r;
      row_sequence_[static_cast<size_t>(s.row_begin + r)] = static_cast<int32_t>(i);
    }
  }
  plan_.build(batch);
}

void CpuExecutable::run_op(const Op& op, Team& team) {
  std::visit([&](const auto& concrete) { run(concrete, team); }, op);
}

void CpuExecutable::run(const StepBatch& batch, KvCache& cache, float* logits) {
  auto* mine = dynamic_cast<CpuKvCache*>(&cache);
  require(mine && mine->fits(*program_), "the KV cache belongs to another model or backend");
  check_batch(*program_, batch, mine->n_blocks(), max_rows_);
  for (const StepSequence& s : batch.sequences) {
    require(int64_t{s.position_begin} + s.n_rows <= max_positions_, "a position is past max_positions");
  }
  if (batch.tokens.empty()) return;
  prepare(batch);
  batch_ = &batch, cache_ = mine, logits_ = logits;
  if (!observer_) {
    pool_->run([this](Team& team) {
      rope_angles(team);
      const std::vector<Op>& ops = program_->ops;
      for (size_t i = 0; i < ops.size(); ++i) {
        if (feeds_next_[i] && n_rows_ <= kOwnRows) {
          run_normed(std::get<RmsNormOp>(ops[i]), std::get<LinearOp>(ops[i + 1]), team);
          ++i;
        } else {
          run_op(ops[i], team);
        }
      }
    });
    return;
  }
  pool_->run([this](Team& team) { rope_angles(team); });
  for (size_t i = 0; i < program_->ops.size(); ++i) {
    pool_->run([this, i](Team& team) { run_op(program_->ops[i], team); });
    report(i);
  }
}

// Hands the buffer that operation `op` wrote to the observer.
void CpuExecutable::report(size_t op) {
  const BufferId id = std::visit(
      [](const auto& o) -> BufferId {
        using T = std::decay_t<decltype(o)>;
        if constexpr (std::is_same_v<T, LogitsOp>) {
          return kNoId;
        } else if constexpr (std::is_same_v<T, QkNormRopeAppendOp>) {
          return o.q_out;
        } else {
          return o.out;
        }
      },
      program_->ops[op]);
  if (id == kNoId) return;
  const Activation& a = buffer(id);
  observed_.resize(static_cast<size_t>(n_rows_ * a.cols));
  for (int64_t r = 0; r < n_rows_; ++r) {
    float* out = observed_.data() + r * a.cols;
    if (a.store != Store::kBf16) {
      std::memcpy(out, a.row(r), static_cast<size_t>(a.cols) * 4);
    } else {
      const uint16_t* in = reinterpret_cast<const uint16_t*>(a.row(r));
      for (int64_t c = 0; c < a.cols; ++c) out[c] = bf16_to_f32(in[c]);
    }
  }
  const std::string& name =
      op < program_->op_names.size() ? program_->op_names[op] : program_->buffers[static_cast<size_t>(id)].name;
  observer_(name, n_rows_, a.cols, observed_.data());
}

}  // namespace qwen3::cpu
