#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "ops/program.h"
#include "ops/sampling.h"
#include "ops/step.h"

namespace qwen3 {

// A matrix [rows, cols] somewhere else (a file, a generator) that can be read by ranges of rows, from several threads.
struct MatrixSource {
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kBF16;
  // Writes rows [begin, end) to `out` as `dtype`, row major. Throws Error on a failed read.
  std::function<void(int64_t begin, int64_t end, void* out)> read;
};

// How a matrix is kept. kInt8: signed, symmetric, groups of 64 along k; kInt4: symmetric, groups of 32; kInt4Offset:
// groups of 32 with scale and offset. Every group of a row has an f16 scale. A backend refuses what it cannot hold
// (kUnsupported).
enum class WeightFormat : uint8_t { kF32, kBF16, kInt8, kInt4, kInt4Offset };

// How a weight is going to be used decides its packed layout.
enum class WeightUse : uint8_t {
  kVector,     // norm weights: kept f32
  kLinear,     // one or more sources stacked along rows (fused qkv)
  kGateUp,     // two sources of equal shape, gate and up, for Epilogue::kSiluMul
  kEmbedding,  // rows looked up by token; with tied embeddings also used by LogitsOp
};

// A packed weight, owned by the backend that made it. Immutable, shared between models.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t rows = 0, cols = 0;
  size_t bytes = 0;
};

// K and V pools of every layer, [n_blocks, n_kv_heads, 64, head_dim] each: one head's block is contiguous.
class KvCache {
 public:
  virtual ~KvCache() = default;
  // Copies the first n_positions of block `from` to block `to`, in every layer and head.
  virtual void copy_block(int32_t from, int32_t to, int32_t n_positions) = 0;
  // Fills a block with NaN: tests do so to prove that unwritten slots are never read.
  virtual void poison_block(int32_t block) = 0;
};

// Per layer and expert: how many rows were routed there since the counts were last reset, [n_layers * n_experts].
using ExpertCounts = std::vector<int64_t>;

// A program compiled for one backend, with its activations for up to max_rows rows. Not thread safe; one per engine.
class Executable {
 public:
  virtual ~Executable() = default;
  // Runs one step. logits: [batch.logits_rows.size(), vocab] f32, every element is written.
  virtual void run(const StepBatch& batch, KvCache& cache, float* logits) = 0;
  // Whether the device draws tokens itself: then prepare(), enqueue() and collect() work, and up to two steps may be
  // queued while the host decides what to do with the tokens of the first.
  virtual bool samples() const { return false; }
  // Whether it gives the log-probabilities that a row asks for, too. Otherwise the row needs run() and the host.
  virtual bool gives_logprobs(const RowSampling& row) const { return row.top_logprobs < 0; }
  // Once, before the first step: reserves what queued steps of up to so many decode rows need, so that none of them
  // allocates anything. Throws Error(kOutOfMemory).
  virtual void prepare(KvCache& cache, int64_t decode_rows) { (void)cache, (void)decode_rows; }
  // Queues a step and returns. `sampling` has an entry for each of batch.logits_rows. Throws Error(kOutOfMemory) when
  // nothing of the step shows and the one queued before goes on; after any other error nothing is queued any more.
  virtual void enqueue(const StepBatch& batch, KvCache& cache, std::span<const RowSampling> sampling);
  // Waits for the oldest queued step and gives the tokens that it drew, one per logits row; -1: its logits were not
  // finite numbers. logprobs: as many, of which rows that asked for them are written, or empty when none did. After an
  // error nothing is queued any more.
  virtual void collect(std::span<int32_t> tokens, std::span<RowLogprobs> logprobs);
  // For work of the host between two steps: task(i) for i in [0, n), each once, on the threads that run the steps, the
  // caller among them. `task` must not throw.
  virtual void for_each(int64_t n, const std::function<void(int64_t)>& task) {
    for (int64_t i = 0; i < n; ++i) task(i);
  }
  virtual int host_threads() const { return 1; }  // how many tasks of for_each run at a time
  // During every later run, `observer` is called after each operation but logits with its Program::op_names entry and
  // the buffer that it wrote (host f32 copy, [n_rows, cols]). For parity tests; null switches it off.
  using Observer = std::function<void(std::string_view name, int64_t rows, int64_t cols, const float* values)>;
  virtual void observe(Observer observer) = 0;
  // As of the last step that was run or collected.
  virtual ExpertCounts expert_counts() const { return {}; }
};

// One class per device implements this. Thread safe; lives as long as the process (engine/runtime owns it).
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;  // "cpu", "reference", "cuda:0"
  // Bytes that weights, caches and activations may still take on this device.
  virtual int64_t available_memory() const;
  // Bytes that pack() will need for this weight, so that a load can be refused before memory is touched. `rows` is the
  // total of the stacked sources (kGateUp: gate and up together; kVector: n elements are n rows of 1 col).
  virtual int64_t packed_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) const = 0;
  // Reads and packs in parallel. Throws Error(kOutOfMemory) and what the sources throw.
  virtual std::unique_ptr<Weight> pack(WeightUse use, WeightFormat format, std::span<const MatrixSource> sources) = 0;
  // Names what the packed bytes mean, e.g. "cpu-1": the layout, and a number that changes with the layout or with the
  // arithmetic of packing. Backends of equal, non-empty layouts read each other's weights, so these are shared, and may
  // be kept in a file between runs. Empty: the weights belong to this backend alone.
  virtual std::string layout() const { return {}; }
  // The packed bytes of a weight that pack() or adopt() made, packed_bytes() of them; empty when they are not in host
  // memory, and then nothing is cached.
  virtual std::span<const std::byte> packed(const Weight& weight) const {
    (void)weight;
    return {};
  }
  // The weight whose packed() bytes these are, without a copy; `rows` as for packed_bytes. `owner` keeps them mapped.
  // `bytes` starts on a 64-byte boundary. Throws Error(kInvalidArgument) when their number is not packed_bytes().
  virtual std::unique_ptr<Weight> adopt(WeightUse use, WeightFormat format, int64_t rows, int64_t cols,
                                        std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
  virtual int64_t kv_block_bytes(const Program& program, DType dtype) const = 0;  // K and V, all layers, one block
  virtual std::unique_ptr<KvCache> create_kv_cache(const Program& program, DType dtype, int64_t n_blocks) = 0;
  // Rows of prefill that a step should take: as many as it takes for the device to be fast, and as memory, with weights
  // and cache in place, allows.
  virtual int32_t prefill_rows(const Program& program) const {
    (void)program;
    return 512;
  }
  // `weights[id]` for every WeightId of the program; they outlive the executable (shared_ptr held by it).
  virtual std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                              std::vector<std::shared_ptr<const Weight>> weights, int64_t max_rows,
                                              int64_t max_positions) = 0;
};

// The backend that a device name asks for: "auto", "cpu", "cuda", "cuda:N", "reference" (cpu/registry.cc). "auto" is
// the CPU: who asks for sizes first may choose better (node/device_choice.h). Throws Error(kUnsupported, "device") for
// names that this build or machine has no backend for: there is no silent fallback. threads: 0 = physical cores. isa:
// as for create_cpu_backend; other devices take "auto" only.
std::unique_ptr<Backend> create_backend(std::string_view device, int threads, std::string_view isa = "auto",
                                        BatchInvariance invariance = BatchInvariance::kBatch);

// cpu/backend.cc: kernels chosen by what the machine can do. `isa`: "auto", "scalar", "avx2", "avxvnni", "avx512",
// "avx512vnni", "avx512bf16", "amx"; a level that the machine lacks throws Error(kUnsupported). threads: 0 = physical
// cores (affinity and cgroup limits kept).
std::unique_ptr<Backend> create_cpu_backend(int threads, std::string_view isa);
// cuda/client/cuda_backend.cc: through libqwen3_cuda.so, which it opens. device: "cuda" (the first usable) or "cuda:N".
std::unique_ptr<Backend> create_cuda_backend(std::string_view device,
                                             BatchInvariance invariance = BatchInvariance::kBatch);
// cpu/reference/backend.cc: scalar, f32, single threaded, short. The oracle of every fast path.
std::unique_ptr<Backend> create_reference_backend();

}  // namespace qwen3
