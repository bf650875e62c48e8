#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <vector>

#include "cuda/cache.h"
#include "cuda/tables.h"
#include "cuda/weights.h"

namespace qwen3::cuda {

// Throws Error(kUnsupported, "device") for a model of a shape that the kernels do not have.
void check_supported(const qwen3_cuda_program& program);

// A program with its activations, and its steps: run() waits for logits, enqueue() and collect() let the device draw
// tokens while the host is up to two steps ahead. Rows that decode come first on the device, the others behind them:
// the two ranges run different kernels, so that a row's bits depend on its phase and never on its neighbours.
//
// Queued steps of decoding rows only are CUDA graphs, one per bucket of rows, captured before they are needed. Missing
// rows are padding (StepTables). Everything they read lies at fixed addresses; when one must grow, the graphs are
// captured again.
class DeviceExecutable {
 public:
  DeviceExecutable(Stream loading, const DeviceDescription& device, const qwen3_cuda_program& program,
                   std::vector<const DeviceWeight*> weights, int64_t max_rows, int64_t max_positions, bool one_class);
  ~DeviceExecutable();
  void prepare(DeviceCache& cache, int64_t decode_rows);
  void run(const qwen3_cuda_batch& batch, DeviceCache& cache, float* logits);
  void enqueue(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, DeviceCache& cache);
  void collect(int32_t* tokens, qwen3_cuda_logprobs* logprobs, int32_t n);
  bool gives_logprobs(const qwen3_cuda_sampling& row) const;
  void observe(qwen3_cuda_observer observer, void* context) { observer_ = observer, observer_context_ = context; }
  void expert_counts(int64_t* out) const { std::copy(expert_totals_.begin(), expert_totals_.end(), out); }

 private:
  struct Operation {
    qwen3_cuda_op plain;
    DeviceBuffer gate_up, down;  // pointers to the experts' weights
    // On sm_90a the same for TMA: of moe_experts_hopper, and of moe_stream_hopper.
    DeviceBuffer gate_up_maps, down_maps, gate_up_stream_maps, down_stream_maps;
    int32_t ffn = 0;
    // Operations that its kernel can take in: the norm of its input, which nobody else reads; QK-Norm ahead of
    // attention.
    int32_t norm = -1, heads = -1;
  };
  // Queued steps take turns: while one runs, the next one's sheet is on its way, and the tokens of the one before are.
  struct Turn {
    OwnedEvent uploaded, ran, done;              // the sheet is there; the kernels have ended; the host has its results
    DeviceBuffer drawn;                          // tokens, which the other turn's step reads
    std::map<int, OwnedGraph> graphs;            // by bucket: they hold the addresses of the turn's sheet and tokens
    DeviceBuffer found_logprobs;                 // RowLogprobs of each row of logits, where a step has to give them
    PinnedBuffer tokens, expert_load, logprobs;  // for the host
    int n_tokens = 0;
    bool wants_logprobs = false;
  };
  static constexpr int kQueue = 2;

  void make_operations(Stream loading, const qwen3_cuda_program& program);
  void make_expert_buffers(Stream loading, int64_t assignments, int64_t widest);
  void make_stream_buffers(Stream loading);
  void find_fusions();
  void use(DeviceCache& cache);
  bool drain() noexcept;
  void forget_queue() noexcept;
  // Room for the planned step; nothing of it has run yet.
  void make_room(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket);
  void reserve_partials(size_t n);
  void reserve_logits(int64_t n);
  void reserve_zeroed(DeviceBuffer& buffer, size_t bytes);
  void reserve_logprobs(Turn& turn, int n);
  void moved();
  int bucket_of(const qwen3_cuda_batch& batch, bool logprobs) const;
  void capture(int bucket, int turn, DeviceCache& cache);
  bool run_graph(int bucket, DeviceCache& cache);
  void start(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, DeviceCache& cache);
  void finish_step(Turn& turn);
  void count_experts(const Turn& turn);

  // operations.cc: launches for the step in view_.
  void launch_all(DeviceCache& cache);
  bool decodes_only() const;
  bool takes_norm(const Operation& op) const;
  bool takes_heads(const Operation& op) const;
  bool taken(size_t index) const;
  StreamFusion fusion_of(const Operation& op) const;
  void launch_stream(const LinearOperands& operands, const LinearShape& shape, Output output,
                     const StreamFusion& fusion);
  QkNormRope heads_of(const qwen3_cuda_op& op, DeviceCache& cache) const;
  void launch_sampling();
  void launch_op(const Operation& op, DeviceCache& cache);
  void launch_attention(const Operation& op, DeviceCache& cache);
  void launch_linear(const Operation& op);
  void launch_moe(const Operation& op);
  void launch_logits(const Operation& op);
  void show(int32_t index, int32_t buffer);
  Turn& turn(int i) { return turns_[static_cast<size_t>(i % kQueue)]; }
  int32_t* drawn(int i) { return turn(i).drawn.as<int32_t>(); }
  const DeviceWeight& weight(int32_t id) const { return *weights_.at(static_cast<size_t>(id)); }
  float* f32(int32_t buffer) const { return buffers_.at(static_cast<size_t>(buffer)).as<float>(); }
  Bf16* bf16(int32_t buffer) const { return buffers_.at(static_cast<size_t>(buffer)).as<Bf16>(); }

  Stream stream_ = nullptr;  // the cache's
  // Copies that must not hold up the next step: of its sheet, and of the last one's tokens.
  OwnedStream ahead_{create_stream()}, behind_{create_stream()};
  int32_t n_layers_, n_experts_, hidden_, vocab_;
  HeadShape heads_;
  bool hopper_;
  int multiprocessors_;
  int64_t max_rows_, max_positions_;
  bool one_class_;
  std::vector<qwen3_cuda_buffer> described_;
  std::vector<Operation> ops_;
  std::vector<const DeviceWeight*> weights_;
  std::vector<DeviceBuffer> buffers_;
  DeviceBuffer inv_freq_, rope_factor_, cos_, sin_;
  DeviceBuffer tokens_, partials_, arrived_, logits_, sampling_scratch_;
  DeviceBuffer ids_, shares_, order_, offsets_, gated_, products_, expert_load_;
  DeviceBuffer route_scores_, route_arrived_;   // of moe_route_few
  DeviceBuffer combine_arrived_;                // of moe_stream_hopper
  DeviceBuffer tiles_drawn_;                    // of moe_experts_hopper
  DeviceBuffer stream_parts_, stream_arrived_;  // of linear_stream_hopper

  StepTables tables_;
  StepView view_;  // of the step that is being launched or captured, and
  int turn_ = 0;   // whose turn that is
  std::array<Turn, kQueue> turns_;
  int next_ = 0, queued_ = 0;  // whose turn is next; how many before it wait for collect()
  std::vector<int64_t> expert_totals_;
  std::vector<uint32_t> expert_seen_;

  qwen3_cuda_observer observer_ = nullptr;
  void* observer_context_ = nullptr;
};

}  // namespace qwen3::cuda
