#include "ops/backend.h"

#include <new>
#include <string>

#include "core/checked.h"
#include "core/status.h"
#include "cpu/dispatch.h"
#include "cpu/executable.h"

namespace qwen3 {
namespace cpu {
namespace {

// Runs `make` and turns a failed allocation into the typed error.
template <class Make>
auto with_memory(const std::string& what, int64_t bytes, Make&& make) {
  try {
    return make();
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kOutOfMemory, "not enough memory for " + what + " (" + std::to_string(bytes >> 20) +
                                             " MiB asked for); use a smaller model, contextLength or kvCacheBytes");
  }
}

class CpuBackend : public Backend {
 public:
  CpuBackend(int threads, std::string_view isa)
      : kernels_(choose_kernels(isa)), pool_(std::make_shared<ThreadPool>(threads)) {}

  std::string_view name() const override { return "cpu"; }

  int64_t packed_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) const override {
    return packed_weight_bytes(use, format, rows, cols);
  }

  std::unique_ptr<Weight> pack(WeightUse use, WeightFormat format, std::span<const MatrixSource> sources) override {
    int64_t rows = 0;
    for (const MatrixSource& source : sources) rows += source.rows;
    const int64_t bytes = sources.empty() ? 0 : packed_weight_bytes(use, format, rows, sources[0].cols);
    return with_memory("a weight", bytes, [&]() -> std::unique_ptr<Weight> {
      return pack_weight(*pool_, kernels_, memory_, use, format, sources);
    });
  }

  std::string layout() const override { return kWeightLayout; }

  std::span<const std::byte> packed(const Weight& weight) const override {
    return packed_bytes_of(static_cast<const PackedWeight&>(weight));
  }

  std::unique_ptr<Weight> adopt(WeightUse use, WeightFormat format, int64_t rows, int64_t cols,
                                std::span<const std::byte> bytes, std::shared_ptr<const void> owner) override {
    return adopt_weight(use, format, rows, cols, bytes, std::move(owner));
  }

  int64_t kv_block_bytes(const Program& program, DType dtype) const override {
    return CpuKvCache::block_bytes(program, dtype);
  }

  std::unique_ptr<KvCache> create_kv_cache(const Program& program, DType dtype, int64_t n_blocks) override {
    if (n_blocks <= 0) {
      throw Error(ErrorCode::kInvalidArgument, "the KV cache needs at least one block", "kvCacheBytes");
    }
    return with_memory(
        "the KV cache", checked_mul(n_blocks, kv_block_bytes(program, dtype)),
        [&]() -> std::unique_ptr<KvCache> { return std::make_unique<CpuKvCache>(program, dtype, n_blocks); });
  }

  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      std::vector<std::shared_ptr<const Weight>> weights, int64_t max_rows,
                                      int64_t max_positions) override {
    return with_memory("the activations", 0, [&]() -> std::unique_ptr<Executable> {
      return std::make_unique<CpuExecutable>(pool_, kernels_, std::move(program), std::move(weights), max_rows,
                                             max_positions);
    });
  }

 private:
  const KernelTable& kernels_;
  std::shared_ptr<ThreadPool> pool_;
  WeightMemory memory_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend> create_cpu_backend(int threads, std::string_view isa) {
  return std::make_unique<cpu::CpuBackend>(threads, isa);
}

}  // namespace qwen3
