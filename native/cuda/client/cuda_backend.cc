#include "cuda/client/cuda_backend.h"

#include <array>
#include <charconv>
#include <exception>
#include <mutex>
#include <utility>

#include "cuda/client/cuda_library.h"
#include "cuda/client/flat_program.h"
#include "ops/check_batch.h"

namespace qwen3 {
namespace {

using Library = std::shared_ptr<const CudaLibrary>;

// What create_backend made; weights, caches and executables keep it.
struct Handle {
  Handle(Library l, qwen3_cuda_backend* b) : library(std::move(l)), backend(b) {}
  ~Handle() { (*library)->destroy_backend(backend); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  const qwen3_cuda_table* operator->() const { return library->operator->(); }
  Library library;
  qwen3_cuda_backend* backend;
};
using Shared = std::shared_ptr<const Handle>;

// Calls into the library: `call` gets an error to fill, `failed` is what it returns then.
template <class Result, class Call>
Result checked(Result failed, Call call) {
  qwen3_cuda_error error{};
  const Result result = call(&error);
  if (result == failed) throw_cuda_error(error);
  return result;
}

class CudaWeight final : public Weight {
 public:
  CudaWeight(Shared handle, qwen3_cuda_weight* weight) : handle_(std::move(handle)), weight_(weight) {}
  ~CudaWeight() override { (*handle_)->destroy_weight(weight_); }
  const qwen3_cuda_weight* get() const { return weight_; }

 private:
  Shared handle_;
  qwen3_cuda_weight* weight_;
};

class CudaKvCache final : public KvCache {
 public:
  CudaKvCache(Shared handle, qwen3_cuda_cache* cache, int64_t n_blocks)
      : handle_(std::move(handle)), cache_(cache), n_blocks_(n_blocks) {}
  ~CudaKvCache() override { (*handle_)->destroy_cache(cache_); }
  void copy_block(int32_t from, int32_t to, int32_t n_positions) override {
    call([&](auto* error) { return (*handle_)->copy_block(cache_, from, to, n_positions, error); });
  }
  void poison_block(int32_t block) override {
    call([&](auto* error) { return (*handle_)->poison_block(cache_, block, error); });
  }
  qwen3_cuda_cache* get() const { return cache_; }
  int64_t n_blocks() const { return n_blocks_; }

 private:
  template <class Call>
  void call(Call call) {
    qwen3_cuda_error error{};
    if (call(&error) != 0) throw_cuda_error(error);
  }
  Shared handle_;
  qwen3_cuda_cache* cache_;
  int64_t n_blocks_;
};

static_assert(sizeof(qwen3_cuda_logprobs) == sizeof(RowLogprobs));

class CudaExecutable final : public Executable {
 public:
  CudaExecutable(Shared handle, std::shared_ptr<const Program> program,
                 std::vector<std::shared_ptr<const Weight>> weights, int64_t max_rows, int64_t max_positions)
      : handle_(std::move(handle)), program_(std::move(program)), weights_(std::move(weights)), max_rows_(max_rows) {
    std::vector<const qwen3_cuda_weight*> plain;
    for (const auto& w : weights_) plain.push_back(dynamic_cast<const CudaWeight&>(*w).get());
    const FlatProgram flat(*program_);
    executable_ = checked(static_cast<qwen3_cuda_executable*>(nullptr), [&](auto* error) {
      return (*handle_)->compile(handle_->backend, flat.get(), plain.data(), static_cast<int32_t>(plain.size()),
                                 max_rows, max_positions, error);
    });
  }
  ~CudaExecutable() override { (*handle_)->destroy_executable(executable_); }

  void run(const StepBatch& batch, KvCache& cache, float* logits) override {
    auto& paged = dynamic_cast<CudaKvCache&>(cache);
    check_batch(*program_, batch, paged.n_blocks(), max_rows_);
    const qwen3_cuda_batch flat = flatten(batch);
    call([&](auto* error) { return (*handle_)->run(executable_, &flat, paged.get(), logits, error); });
    if (observer_error_) std::rethrow_exception(std::exchange(observer_error_, nullptr));
  }

  bool samples() const override { return true; }

  void prepare(KvCache& cache, int64_t decode_rows) override {
    auto& paged = dynamic_cast<CudaKvCache&>(cache);
    call([&](auto* error) { return (*handle_)->prepare(executable_, paged.get(), decode_rows, error); });
  }

  void enqueue(const StepBatch& batch, KvCache& cache, std::span<const RowSampling> sampling) override {
    auto& paged = dynamic_cast<CudaKvCache&>(cache);
    check_batch(*program_, batch, paged.n_blocks(), max_rows_, drawn_);
    if (sampling.size() != batch.logits_rows.size())
      throw Error(ErrorCode::kInternal, "step refused: sampling and logits rows differ");
    const qwen3_cuda_batch flat = flatten(batch);
    flatten(sampling);
    call([&](auto* error) { return (*handle_)->enqueue(executable_, &flat, sampling_.data(), paged.get(), error); });
    drawn_ = static_cast<int64_t>(batch.logits_rows.size());
  }

  bool gives_logprobs(const RowSampling& row) const override {
    const qwen3_cuda_sampling plain = flatten(row);
    return (*handle_)->gives_logprobs(executable_, &plain) != 0;
  }

  void collect(std::span<int32_t> tokens, std::span<RowLogprobs> logprobs) override {
    if (!logprobs.empty() && logprobs.size() != tokens.size())
      throw Error(ErrorCode::kInternal, "tokens and log-probabilities differ in number");
    logprobs_.resize(logprobs.size());
    call([&](auto* error) {
      return (*handle_)->collect(executable_, tokens.data(), logprobs.empty() ? nullptr : logprobs_.data(),
                                 static_cast<int32_t>(tokens.size()), error);
    });
    if (!logprobs.empty()) std::memcpy(logprobs.data(), logprobs_.data(), logprobs.size_bytes());  // the same struct
  }

  void observe(Observer observer) override {
    observer_ = std::move(observer);
    (*handle_)->observe(executable_, observer_ ? &CudaExecutable::observed : nullptr, this);
  }

  ExpertCounts expert_counts() const override {
    ExpertCounts counts(static_cast<size_t>(program_->n_layers) * static_cast<size_t>(program_->n_experts));
    qwen3_cuda_error error{};
    if (!counts.empty() && (*handle_)->expert_counts(executable_, counts.data(), &error) != 0) throw_cuda_error(error);
    return counts;
  }

 private:
  template <class Call>
  static void call(Call call) {
    qwen3_cuda_error error{};
    if (call(&error) != 0) throw_cuda_error(error);
  }

  qwen3_cuda_batch flatten(const StepBatch& batch) {
    sequences_.clear();
    for (const StepSequence& s : batch.sequences) {
      sequences_.push_back({s.row_begin, s.n_rows, s.position_begin, s.rope_table, s.decode ? 1 : 0,
                            static_cast<int32_t>(s.block_table.size()), s.block_table.data()});
    }
    return {static_cast<int32_t>(batch.tokens.size()),
            static_cast<int32_t>(sequences_.size()),
            static_cast<int32_t>(batch.logits_rows.size()),
            batch.tokens.data(),
            sequences_.data(),
            batch.logits_rows.data()};
  }

  // But for the adjustments themselves.
  static qwen3_cuda_sampling flatten(const RowSampling& s) {
    return {s.temperature,
            s.top_p,
            s.min_p,
            s.top_k,
            s.presence_penalty,
            s.frequency_penalty,
            s.repetition_penalty,
            s.choice,
            s.seed,
            s.position,
            s.counts_input ? 1 : 0,
            static_cast<int32_t>(s.adjustments.size()),
            nullptr,
            s.top_logprobs};
  }

  void flatten(std::span<const RowSampling> sampling) {
    sampling_.clear(), adjustments_.clear();
    for (const RowSampling& s : sampling) {
      for (const LogitAdjustment& a : s.adjustments) adjustments_.push_back({a.id, a.bias, a.count, a.banned ? 1 : 0});
      sampling_.push_back(flatten(s));
    }
    const qwen3_cuda_adjustment* next = adjustments_.data();
    for (qwen3_cuda_sampling& s : sampling_) s.adjustments = std::exchange(next, next + s.n_adjustments);
  }

  static void observed(void* context, int32_t op, int64_t rows, int64_t cols, const float* values) {
    auto& self = *static_cast<CudaExecutable*>(context);
    try {
      self.observer_(self.program_->op_names[static_cast<size_t>(op)], rows, cols, values);
    } catch (...) {  // must not cross the library
      if (!self.observer_error_) self.observer_error_ = std::current_exception();
    }
  }

  Shared handle_;
  std::shared_ptr<const Program> program_;
  std::vector<std::shared_ptr<const Weight>> weights_;
  int64_t max_rows_;
  qwen3_cuda_executable* executable_ = nullptr;
  std::vector<qwen3_cuda_sequence> sequences_;
  std::vector<qwen3_cuda_sampling> sampling_;
  std::vector<qwen3_cuda_adjustment> adjustments_;
  std::vector<qwen3_cuda_logprobs> logprobs_;
  int64_t drawn_ = 0;  // tokens that the step queued last draws
  Observer observer_;
  std::exception_ptr observer_error_;
};

// A source behind a C callback; what it throws waits here until the library has returned.
struct SourceContext {
  const MatrixSource* source;
  std::exception_ptr* error;
  std::mutex* lock;  // several threads read
  static int32_t read(void* context, int64_t begin, int64_t end, void* out) {
    auto& self = *static_cast<SourceContext*>(context);
    try {
      self.source->read(begin, end, out);
      return 0;
    } catch (...) {
      const std::lock_guard guard(*self.lock);
      if (!*self.error) *self.error = std::current_exception();
      return 1;
    }
  }
};

std::vector<CudaDevice> list_devices(const CudaLibrary& library) {
  std::array<qwen3_cuda_device, 16> found{};
  const int32_t n = checked(int32_t{-1}, [&](auto* error) {
    return library->devices(found.data(), static_cast<int32_t>(found.size()), error);
  });
  std::vector<CudaDevice> out;
  for (int32_t i = 0; i < std::min(n, static_cast<int32_t>(found.size())); ++i) {
    const qwen3_cuda_device& d = found[static_cast<size_t>(i)];
    out.push_back({d.index, d.name, d.compute_major, d.compute_minor, d.multiprocessors, d.memory_bytes, d.free_bytes,
                   std::to_string(d.driver_version / 1000) + "." + std::to_string(d.driver_version % 1000 / 10),
                   d.usable ? "" : d.reason});
  }
  return out;
}

constexpr int32_t kMostPrefillRows = 8192, kFewestPrefillRows = 512;

// Of one row: the program's buffers, and for each expert chosen its gated values in bf16, no more of them than the
// model is wide, and its product in f32.
int64_t activation_bytes(const Program& program) {
  int64_t bytes = 0;
  int32_t experts = 0;
  for (const BufferDesc& buffer : program.buffers) bytes += buffer.cols * dtype_bytes(buffer.dtype);
  for (const Op& op : program.ops) {
    if (const auto* moe = std::get_if<MoeOp>(&op)) experts = std::max(experts, moe->top_k);
  }
  return bytes + int64_t{experts} * program.hidden * 6;
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(Shared handle, int32_t device, bool full)
      : handle_(std::move(handle)),
        name_("cuda:" + std::to_string(device) + (full ? " (full)" : "")),
        device_(device) {}
  std::string_view name() const override { return name_; }

  int64_t available_memory() const override {
    for (const CudaDevice& d : list_devices(*handle_->library)) {
      if (d.index != device_) continue;
      if (!d.reason.empty()) throw Error(ErrorCode::kInternal, d.reason, "device");  // it was usable once
      return d.free_bytes;
    }
    return INT64_MAX;
  }

  int64_t packed_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols) const override {
    return checked(int64_t{-1}, [&](auto* error) {
      return (*handle_)->packed_bytes(static_cast<int32_t>(use), static_cast<int32_t>(format), rows, cols, error);
    });
  }

  std::unique_ptr<Weight> pack(WeightUse use, WeightFormat format, std::span<const MatrixSource> sources) override {
    std::exception_ptr thrown;
    std::mutex lock;
    std::vector<SourceContext> contexts;
    std::vector<qwen3_cuda_source> plain;
    int64_t rows = 0;
    for (const MatrixSource& s : sources) contexts.push_back({&s, &thrown, &lock}), rows += s.rows;
    for (SourceContext& c : contexts) {
      plain.push_back(
          {c.source->rows, c.source->cols, static_cast<int32_t>(c.source->dtype), &SourceContext::read, &c});
    }
    qwen3_cuda_error error{};
    qwen3_cuda_weight* packed =
        (*handle_)->pack(handle_->backend, static_cast<int32_t>(use), static_cast<int32_t>(format), plain.data(),
                         static_cast<int32_t>(plain.size()), &error);
    if (thrown) std::rethrow_exception(thrown);
    if (!packed) throw_cuda_error(error);
    auto weight = std::make_unique<CudaWeight>(handle_, packed);
    weight->rows = rows, weight->cols = sources.front().cols;
    weight->bytes = static_cast<size_t>(packed_bytes(use, format, weight->rows, weight->cols));
    return weight;
  }

  int64_t kv_block_bytes(const Program& program, DType dtype) const override {
    const FlatProgram flat(program);
    return checked(int64_t{-1}, [&](auto* error) {
      return (*handle_)->kv_block_bytes(flat.get(), static_cast<int32_t>(dtype), error);
    });
  }

  std::unique_ptr<KvCache> create_kv_cache(const Program& program, DType dtype, int64_t n_blocks) override {
    const FlatProgram flat(program);
    qwen3_cuda_cache* cache = checked(static_cast<qwen3_cuda_cache*>(nullptr), [&](auto* error) {
      return (*handle_)->create_cache(handle_->backend, flat.get(), static_cast<int32_t>(dtype), n_blocks, error);
    });
    return std::make_unique<CudaKvCache>(handle_, cache, n_blocks);
  }

  // A product of 512 rows does not fill a large chip; from 4,096 on it is within a few hundredths of its best. An
  // eighth of what is free may go to the activations of a row each.
  int32_t prefill_rows(const Program& program) const override {
    const int64_t row = activation_bytes(program), free = available_memory();
    int32_t rows = kMostPrefillRows;
    while (rows > kFewestPrefillRows && rows * row > free / 8) rows /= 2;
    return rows;
  }

  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      std::vector<std::shared_ptr<const Weight>> weights, int64_t max_rows,
                                      int64_t max_positions) override {
    return std::make_unique<CudaExecutable>(handle_, std::move(program), std::move(weights), max_rows, max_positions);
  }

 private:
  Shared handle_;
  std::string name_;
  int32_t device_;
};

// "cuda" or "cuda:N".
int32_t device_index(std::string_view device, const CudaLibrary& library) {
  if (device != "cuda") {
    int32_t index = -1;
    const std::string_view digits = device.substr(std::min<size_t>(5, device.size()));
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (!device.starts_with("cuda:") || status != std::errc() || end != digits.data() + digits.size() || index < 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "device must be 'auto', 'cpu', 'cuda' or 'cuda:N', received '" + std::string(device) + "'", "device");
    }
    return index;
  }
  std::string reasons;
  for (const CudaDevice& d : list_devices(library)) {
    if (d.reason.empty()) return d.index;
    reasons += (reasons.empty() ? "" : "; ") + d.reason;
  }
  throw Error(ErrorCode::kUnsupported, reasons.empty() ? "this machine has no CUDA device" : reasons, "device");
}

}  // namespace

CudaReport cuda_report() {
  CudaReport report;
  try {
    const Library library = CudaLibrary::open();
    report.library = library->path();
    report.devices = list_devices(*library);
    if (report.devices.empty()) report.reason = "this machine has no CUDA device";
  } catch (const std::exception& error) {
    report.reason = error.what();
  }
  return report;
}

std::unique_ptr<Backend> create_cuda_backend(std::string_view device, BatchInvariance invariance) {
  Library library = CudaLibrary::open();
  const int32_t index = device_index(device, *library);
  const bool full = invariance == BatchInvariance::kFull;
  qwen3_cuda_backend* backend = checked(static_cast<qwen3_cuda_backend*>(nullptr), [&](auto* error) {
    return (*library)->create_backend(index, full ? 1 : 0, error);
  });
  return std::make_unique<CudaBackend>(std::make_shared<const Handle>(std::move(library), backend), index, full);
}

}  // namespace qwen3
