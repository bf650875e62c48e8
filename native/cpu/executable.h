#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/attention_plan.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/weights.h"
#include "ops/backend.h"

namespace qwen3::cpu {

// A program with its activations. A step is one job of the pool: every thread walks all operations, the tasks of each
// are shared out, and a barrier ends it. Nothing is allocated in a step.
class CpuExecutable : public Executable {
 public:
  CpuExecutable(std::shared_ptr<ThreadPool> pool, const KernelTable& kernels, std::shared_ptr<const Program> program,
                std::vector<std::shared_ptr<const Weight>> weights, int64_t max_rows, int64_t max_positions);

  void run(const StepBatch& batch, KvCache& cache, float* logits) override;
  void for_each(int64_t n, const std::function<void(int64_t)>& task) override {
    pool_->run([&](Team& team) { team.for_each(n, task); });
  }
  int host_threads() const override { return pool_->size(); }
  void observe(Observer observer) override { observer_ = std::move(observer); }
  ExpertCounts expert_counts() const override { return expert_counts_; }

 private:
  using Team = ThreadPool::Team;

  // [max_rows, stride]; rows start on cache lines, an odd number of lines apart so that rows of a tile fall into
  // different cache sets. Elements past cols are 0 and stay so.
  struct Activation {
    Buffer memory;
    int64_t cols = 0, stride = 0;
    Store store = Store::kF32;
    int64_t element() const { return store == Store::kBf16 ? 2 : 4; }
    char* row(int64_t r) const { return memory.as<char>() + r * stride * element(); }
    float* f32(int64_t r) const { return reinterpret_cast<float*>(row(r)); }
  };
  using LinearKernel = void (*)(const LinearArgs*, int64_t, int64_t, int64_t, int64_t);

  // Throws Error(kInternal) when the caller breaks the contract.
  static void require(bool holds, const char* what);

  // check_program.cc: the shapes of every operation, once, so that no kernel has to ask.
  void check_program() const;
  const Activation& checked_buffer(BufferId id) const;
  void check_vector(WeightId id, int64_t n) const;
  void check_matrix(WeightId id, WeightUse use, int64_t rows, int64_t cols) const;
  void check(const EmbedOp& op) const;
  void check(const RmsNormOp& op) const;
  void check(const LinearOp& op) const;
  void check(const QkNormRopeAppendOp& op) const;
  void check(const AttentionOp& op) const;
  void check(const MoeOp& op) const;
  void check(const LogitsOp& op) const;

  // executable.cc
  Activation activation(int64_t rows, int64_t cols, DType dtype) const;
  void prepare(const StepBatch& batch);
  void run_op(const Op& op, Team& team);
  void report(size_t op);
  void prepare_quantised();
  void prepare_own_norms();
  const PackedWeight& weight(WeightId id) const;
  const Activation& buffer(BufferId id) const { return buffers_[static_cast<size_t>(id)]; }
  LinearKernel linear_kernel(Store x, WeightFormat format) const;

  // ops.cc
  void run(const EmbedOp& op, Team& team);
  void run(const RmsNormOp& op, Team& team);
  void run(const LinearOp& op, Team& team);
  void run(const QkNormRopeAppendOp& op, Team& team);
  void run(const AttentionOp& op, Team& team);
  void run(const LogitsOp& op, Team& team);
  void run_linear(const LinearOp& op, const Activation& x, Team& team);
  void run_normed(const RmsNormOp& norm, const LinearOp& op, Team& team);
  void rope_angles(Team& team);
  void quantise(Team& team, const Activation& x, int64_t n_rows, WeightFormat format, LinearArgs& args);
  void linear(Team& team, const Activation& x, int64_t n_rows, const PackedWeight& w, void* out, int64_t out_stride,
              Store store, Finish finish);
  void attention_task(const AttentionOp& op, const AttentionTask& task, int thread);
  void append_rows(const QkNormRopeAppendOp& op, int64_t head, int64_t row_begin, int64_t row_end, int thread);

  // moe.cc
  void prepare_moe();
  void run(const MoeOp& op, Team& team);
  void route_row(const MoeOp& op, int64_t row);
  void group_by_expert(const MoeOp& op);
  void expert_products(Team& team, const std::vector<WeightId>& weights, const Activation& x, int64_t n,
                       const Activation& out, Finish finish);

  std::shared_ptr<ThreadPool> pool_;
  const KernelTable& kernels_;
  std::shared_ptr<const Program> program_;
  std::vector<std::shared_ptr<const Weight>> weights_;
  int64_t max_rows_, max_positions_;
  bool native_bf16_ = false;
  std::vector<Activation> buffers_;
  Activation logits_input_;
  Observer observer_;
  std::vector<float> observed_;

  // The step that is running.
  const StepBatch* batch_ = nullptr;
  const CpuKvCache* cache_ = nullptr;
  float* logits_ = nullptr;
  int64_t n_rows_ = 0;
  std::vector<int32_t> row_position_, row_sequence_;  // [max_rows]
  Buffer cosine_, sine_;                              // [max_rows, head_dim / 2] f32
  AttentionPlan plan_;
  Buffer partials_;
  std::vector<Buffer> scratch_;  // one a thread
  // Rows of activations for integer weights: shared by all threads, or a few rows that each thread makes for itself.
  Buffer quantised_;
  std::vector<Buffer> own_quantised_;
  // Operations that are norms read by the next operation alone, and a few of their rows for each thread.
  std::vector<bool> feeds_next_;
  std::vector<Activation> own_normed_;

  // Mixture of experts.
  struct Moe {
    int64_t top_k = 0;                    // largest of the program
    Activation router;                    // [max_rows, n_experts]: logits, then probabilities
    Activation gathered, hidden, output;  // [max_rows * top_k, hidden | ffn | hidden]: rows in the order of experts
    std::vector<int32_t> expert;          // [max_rows * top_k], rank by rank
    std::vector<float> share;             // likewise: the weight of that expert's output
    std::vector<int32_t> place;           // likewise: its row in `gathered`
    std::vector<int32_t> source;          // row of the step of each gathered row
    std::vector<int32_t> begin;           // [n_experts + 1] first gathered row
    std::vector<int32_t> active;          // experts with rows
    size_t n_active = 0;
  } moe_;
  ExpertCounts expert_counts_;
};

// How the rows and panels of a product are cut into tasks; any cut gives the same bits.
struct LinearCut {
  int64_t row_chunk, n_row_chunks, panel_chunk, n_panel_chunks;
  int64_t tasks() const { return n_row_chunks * n_panel_chunks; }
};
// row_group: KernelTable::row_group. steps: 4-byte words of a column.
LinearCut cut_linear(int64_t n_rows, int64_t row_group, int64_t n_panels, int64_t steps, int n_threads);

// Up to this many rows are normed and quantised by every thread for itself, which is cheaper than to meet.
constexpr int64_t kOwnRows = 8;

}  // namespace qwen3::cpu
