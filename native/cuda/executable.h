#pragma once

#include <memory>
#include <vector>

#include "cuda/library.h"
#include "cuda/schedule.h"
#include "cuda/weights.h"

namespace qwen3::cuda {

// K and V pools of every layer, bf16 [n_blocks, n_kv_heads, 64, head_dim] each.
class DeviceCache {
 public:
  DeviceCache(Stream stream, const qwen3_cuda_program& program, int64_t n_blocks);
  void copy_block(int32_t from, int32_t to, int32_t n_positions);
  void poison_block(int32_t block);
  KvLayer layer(int32_t i) const;
  int64_t n_blocks() const { return n_blocks_; }
  static int64_t block_bytes(const qwen3_cuda_program& program);

 private:
  int64_t head_elements() const { return int64_t{64} * head_dim_; }
  Stream stream_;
  int32_t n_layers_, n_kv_heads_, head_dim_;
  int64_t n_blocks_;
  DeviceBuffer pools_;  // [n_layers, 2, n_blocks, n_kv_heads, 64, head_dim]
};

// A program with its activations. Rows that decode come first on the device, the others behind them: the two ranges run
// different kernels, so that a row's bits depend on its phase and never on its neighbours.
class DeviceExecutable {
 public:
  DeviceExecutable(Stream stream, const DeviceDescription& device, const qwen3_cuda_program& program,
                   std::vector<const DeviceWeight*> weights, int64_t max_rows, bool one_class);
  void run(const qwen3_cuda_batch& batch, DeviceCache& cache, float* logits);
  void observe(qwen3_cuda_observer observer, void* context) { observer_ = observer, observer_context_ = context; }
  void expert_counts(int64_t* out);

 private:
  struct Step {
    qwen3_cuda_op plain;
    DeviceBuffer gate_up, down;  // pointers to the experts' weights
    int32_t ffn = 0;
  };
  // The rows of one kernel class.
  struct Range {
    int begin, count;
    bool decode;
  };
  // What a step needs on the device, in one buffer that one copy fills.
  struct Tables {
    const int32_t* tokens = nullptr;
    RowMap rows{};
    const int32_t* logits_rows = nullptr;
    AttentionWork prefill{}, decode{};
    const CombineRow* combine = nullptr;
    int n_combine = 0;
  };

  void check_program() const;
  void upload(const qwen3_cuda_batch& batch);
  void plan_rows(const qwen3_cuda_batch& batch);
  void run_op(const Step& op, DeviceCache& cache);
  void run_linear(const Step& op);
  void run_moe(const Step& op);
  void run_logits(const Step& op, float* logits);
  void show(int32_t index, int32_t buffer);
  const DeviceWeight& weight(int32_t id) const { return *weights_.at(static_cast<size_t>(id)); }
  float* f32(int32_t buffer) const { return buffers_.at(static_cast<size_t>(buffer)).as<float>(); }
  Bf16* bf16(int32_t buffer) const { return buffers_.at(static_cast<size_t>(buffer)).as<Bf16>(); }

  Stream stream_;
  int32_t n_layers_, n_experts_, hidden_, vocab_;
  HeadShape heads_;
  bool hopper_;
  int multiprocessors_;
  int64_t max_rows_;
  bool one_class_;
  std::vector<qwen3_cuda_buffer> described_;
  std::vector<Step> ops_;
  std::vector<const DeviceWeight*> weights_;
  std::vector<DeviceBuffer> buffers_;
  DeviceBuffer inv_freq_, rope_factor_, cos_, sin_;
  DeviceBuffer tables_, partials_, logits_;
  PinnedBuffer staging_;
  DeviceBuffer ids_, shares_, order_, offsets_, gated_, products_, expert_load_;

  // Of the running step.
  std::vector<StepSequence> sequences_;  // in the device's order
  std::vector<int32_t> row_of_;          // device row -> row of the batch
  std::vector<Range> ranges_;
  Tables step_;
  int n_rows_ = 0, n_logits_ = 0;

  qwen3_cuda_observer observer_ = nullptr;
  void* observer_context_ = nullptr;
};

}  // namespace qwen3::cuda
