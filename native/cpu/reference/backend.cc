#include <algorithm>
#include <new>
#include <utility>

#include "core/checked.h"
#include "core/status.h"
#include "cpu/reference/reference.h"
#include "cpu/weights_int.h"
#include "ops/check_batch.h"

namespace qwen3 {
namespace reference {
namespace {

void to_f32(DType dtype, const void* in, int64_t n, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const auto* half = static_cast<const uint16_t*>(in);
  for (int64_t i = 0; i < n; ++i) out[i] = dtype == DType::kBF16 ? bf16_to_f32(half[i]) : f16_to_f32(half[i]);
}

class ReferenceExecutable final : public Executable {
 public:
  ReferenceExecutable(std::shared_ptr<const Program> program, std::vector<std::shared_ptr<const Weight>> weights,
                      int64_t max_rows)
      : program_(std::move(program)), weights_(std::move(weights)), max_rows_(max_rows) {
    for (const BufferDesc& desc : program_->buffers) {
      const size_t n = static_cast<size_t>(checked_mul(max_rows, desc.cols));
      buffers_.push_back({std::vector<float>(n), desc.cols, desc.dtype});
    }
    counts_.resize(static_cast<size_t>(checked_mul(program_->n_layers, program_->n_experts)));
  }

  void observe(Observer observer) override { observer_ = std::move(observer); }
  ExpertCounts expert_counts() const override { return counts_; }

  void run(const StepBatch& batch, KvCache& cache, float* out) override {
    auto& paged = dynamic_cast<ReferenceKvCache&>(cache);
    check_batch(*program_, batch, paged.n_blocks(), max_rows_);
    Step step{batch, static_cast<int64_t>(batch.tokens.size()), paged, rope_rows(*program_, batch), out};
    for (size_t i = 0; i < program_->ops.size(); ++i) {
      const BufferId written = std::visit([&](const auto& op) { return execute(op, step); }, program_->ops[i]);
      if (!observer_ || written == kNoId) continue;
      const Activation& buffer = buffers_[static_cast<size_t>(written)];
      observer_(program_->op_names[i], step.n_rows, buffer.cols, buffer.values.data());
    }
  }

 private:
  struct Step {
    const StepBatch& batch;
    int64_t n_rows;
    ReferenceKvCache& cache;
    RopeRows rope;
    float* logits;
  };

  Activation& buffer(BufferId id) { return buffers_.at(static_cast<size_t>(id)); }
  const ReferenceWeight& weight(WeightId id) const {
    return dynamic_cast<const ReferenceWeight&>(*weights_.at(static_cast<size_t>(id)));
  }

  // Each runs one operation and returns the buffer that it wrote.
  BufferId execute(const EmbedOp& op, Step& step) {
    embed(step.batch.tokens, weight(op.table), buffer(op.out));
    return op.out;
  }
  BufferId execute(const RmsNormOp& op, Step& step) {
    rms_norm(buffer(op.x), step.n_rows, weight(op.weight), op.eps, buffer(op.out));
    return op.out;
  }
  BufferId execute(const LinearOp& op, Step& step) {
    linear(buffer(op.x), step.n_rows, weight(op.weight), op.epilogue, buffer(op.out));
    return op.out;
  }
  BufferId execute(const QkNormRopeAppendOp& op, Step& step) {
    qk_norm_rope_append(*program_, op, buffer(op.qkv), weight(op.q_norm), weight(op.k_norm), step.rope, step.batch,
                        step.cache, buffer(op.q_out));
    return op.q_out;
  }
  BufferId execute(const AttentionOp& op, Step& step) {
    attention(*program_, op.layer, buffer(op.q), step.batch, step.cache, buffer(op.out));
    return op.out;
  }
  BufferId execute(const MoeOp& op, Step& step) {
    std::vector<Expert> experts;
    for (size_t e = 0; e < op.gate_up.size(); ++e) experts.push_back({&weight(op.gate_up[e]), &weight(op.down[e])});
    moe(op, buffer(op.x), step.n_rows, weight(op.router), experts, buffer(op.out),
        &counts_[static_cast<size_t>(op.layer) * experts.size()]);
    return op.out;
  }
  BufferId execute(const LogitsOp& op, Step& step) {
    logits(buffer(op.x), step.batch.logits_rows, weight(op.weight), step.logits);
    return kNoId;
  }

  std::shared_ptr<const Program> program_;
  std::vector<std::shared_ptr<const Weight>> weights_;
  int64_t max_rows_;
  std::vector<Activation> buffers_;
  ExpertCounts counts_;
  Observer observer_;
};

class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }

  int64_t packed_bytes(WeightUse, WeightFormat, int64_t rows, int64_t cols) const override {
    return checked_mul(checked_mul(rows, cols), sizeof(float));
  }

  std::unique_ptr<Weight> pack(WeightUse use, WeightFormat format, std::span<const MatrixSource> sources) override {
    auto weight = std::make_unique<ReferenceWeight>();
    weight->cols = sources.front().cols;
    for (const MatrixSource& source : sources) weight->rows += source.rows;
    const int64_t cols = weight->cols;
    weight->bytes = static_cast<size_t>(packed_bytes(use, format, weight->rows, cols));
    weight->values.resize(static_cast<size_t>(checked_mul(weight->rows, cols)));
    const DType stored = format == WeightFormat::kBF16 && use != WeightUse::kVector ? DType::kBF16 : DType::kF32;
    if (use != WeightUse::kVector && cpu::is_integer(format)) weight->group = cpu::int_format(format).group;
    const int64_t step = std::max<int64_t>(1, (int64_t{1} << 18) / cols);
    std::vector<char> piece;
    float* to = weight->values.data();
    for (const MatrixSource& source : sources) {
      piece.resize(static_cast<size_t>(step * cols * dtype_bytes(source.dtype)));
      for (int64_t begin = 0; begin < source.rows; begin += step) {
        const int64_t end = std::min(begin + step, source.rows), n = (end - begin) * cols;
        source.read(begin, end, piece.data());
        to_f32(source.dtype, piece.data(), n, to);
        for (int64_t i = 0; i < n; ++i) to[i] = round_to(stored, to[i]);
        if (weight->group) {
          for (int64_t r = 0; r < end - begin; ++r) cpu::quantise_weight_row(format, to + r * cols, cols);
        }
        to += n;
      }
    }
    return weight;
  }

  int64_t kv_block_bytes(const Program& p, DType) const override {
    const int64_t block = checked_mul(checked_mul(p.n_kv_heads, kBlockSize), p.head_dim);
    return checked_mul(checked_mul(p.n_layers, block), 2 * sizeof(float));
  }

  std::unique_ptr<KvCache> create_kv_cache(const Program& program, DType dtype, int64_t n_blocks) override {
    if (dtype == DType::kF16) throw Error(ErrorCode::kUnsupported, "the KV cache can be f32, bf16 or int8", "kvCache");
    try {
      return std::make_unique<ReferenceKvCache>(program, dtype, n_blocks);
    } catch (const std::bad_alloc&) {
      throw Error(ErrorCode::kOutOfMemory, "the KV cache does not fit in memory; lower kvCacheBytes", "kvCacheBytes");
    }
  }

  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      std::vector<std::shared_ptr<const Weight>> weights, int64_t max_rows,
                                      int64_t) override {
    return std::make_unique<ReferenceExecutable>(std::move(program), std::move(weights), max_rows);
  }
};

}  // namespace
}  // namespace reference

std::unique_ptr<Backend> create_reference_backend() {
  return std::make_unique<reference::ReferenceBackend>();
}

}  // namespace qwen3
