// Whole tiny models through libqwen3_cuda's door, with the emulation for a device: dense and sparse, prefill in chunks,
// decode beside prefill, cache blocks copied and poisoned; against the scalar reference with the same rounding points.
// QWEN3_CUDA_LIBRARY names the library. Then what goes wrong: no driver, an old one, no such device, no memory.

#include <cstdlib>

#include "cuda/client/cuda_backend.h"
#include "forward_f64.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

ModelConfig moe_config() {
  ModelConfig c = tiny_moe_config();
  c.n_experts = 16, c.top_k_experts = 4;
  return c;
}

constexpr uint64_t kWeightsSeed = 7;

struct Runner {
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Program> program;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Executable> executable;
  Runner(const ModelConfig& config, Backend& backend)
      : model(make_tiny_model(config, kWeightsSeed, backend, WeightFormat::kBF16)) {
    program = model->program(std::nullopt);
    cache = backend.create_kv_cache(*program, DType::kBF16, 16);
    for (int32_t b = 0; b < 16; ++b) cache->poison_block(b);
    executable = backend.compile(program, model->weights(), 96, 1024);
  }
  std::vector<float> run(const std::vector<int32_t>& tokens, int32_t position, int32_t first_block) {
    return run_sequence(*executable, *program, *cache, tokens, position, 0, first_block);
  }
};

// Rows of a dense model, bf16. How far rounding takes a row from float64 depends on the row (a thirtieth of its norm in
// some, a hundredth in most) and hardly on the path that rounds: the reference's own distance says what is fair. Of 70
// rows the mean ratio (geometric) spreads by a twentieth; single rows reach 2.7.
class DenseRows {
 public:
  DenseRows(Vector64 want, size_t vocab) : want_(std::move(want)), vocab_(vocab) {}
  // Logits of the next rows.
  void add(const std::vector<float>& device, const std::vector<float>& reference) {
    for (size_t begin = 0; begin < device.size(); begin += vocab_) {
      const double* want = want_.data() + ours_.size() * vocab_;
      ours_.push_back(relative_error(device.data() + begin, want, vocab_));
      theirs_.push_back(relative_error(reference.data() + begin, want, vocab_));
    }
  }
  void finish(const std::string& what) const {
    CHECK(ours_.size() * vocab_ == want_.size());
    double squares = 0, logarithms = 0, worst = 0;
    for (const double e : theirs_) squares += e * e;
    const double typical = std::sqrt(squares / static_cast<double>(theirs_.size()));
    for (size_t i = 0; i < ours_.size(); ++i) {
      logarithms += std::log(ours_[i] / theirs_[i]);
      worst = std::max(worst, ours_[i] / std::max(theirs_[i], typical));
    }
    const double ratio = std::exp(logarithms / static_cast<double>(ours_.size()));
    std::printf("%s: error %.2f times the reference's, of a row at most %.2f times\n", what.c_str(), ratio, worst);
    CHECK_MSG(typical < 2.5e-2, what + ": reference " + std::to_string(typical));
    CHECK_MSG(ratio < 1.25, what + ": " + std::to_string(ratio));
    CHECK_MSG(worst < 6, what + ": " + std::to_string(worst));
  }

 private:
  Vector64 want_;
  size_t vocab_;
  std::vector<double> ours_, theirs_;
};

// Rows of a sparse model. Where a router is next to a tie the two may choose another expert, and that whole row moves:
// three rows in five must agree, and of those that do the first token.
class SparseRows {
 public:
  explicit SparseRows(size_t vocab) : vocab_(vocab) {}
  void add(const std::vector<float>& got, const std::vector<float>& want) {
    for (size_t begin = 0; begin < want.size(); begin += vocab_) {
      const float* ours = got.data() + begin;
      const float* theirs = want.data() + begin;
      const double error = relative_error(ours, theirs, vocab_);
      CHECK_MSG(error < 1.5, std::to_string(error));
      ++rows_;
      if (error > 2.5e-2) continue;
      ++agreeing_;
      const auto best = std::max_element(theirs, theirs + vocab_), chosen = std::max_element(ours, ours + vocab_);
      CHECK(*best - theirs[chosen - ours] < 0.1f * std::abs(*best) + 0.1f);
    }
  }
  void finish(const std::string& what) const {
    std::printf("%s: %lld of %lld rows within 2.5e-2\n", what.c_str(), static_cast<long long>(agreeing_),
                static_cast<long long>(rows_));
    CHECK_MSG(agreeing_ * 5 >= rows_ * 3, what);
  }

 private:
  size_t vocab_;
  int64_t rows_ = 0, agreeing_ = 0;
};

void test_model(const ModelConfig& config, const std::string& name) {
  const auto reference = create_reference_backend();
  const auto cuda = create_cuda_backend("cuda");
  CHECK(cuda->name() == "cuda:0");
  Runner plain(config, *reference), device(config, *cuda);
  Random random(seed(), 1);
  std::vector<int32_t> prompt;

  // Prompts in chunks of 50, 19 and, as a decode step, 1. Another choice of experts early in one moves all that
  // follows, so a sparse model is asked three, and all their rows count.
  const auto vocab = static_cast<size_t>(config.vocab);
  SparseRows sparse_rows(vocab);
  const bool sparse = config.n_experts > 0;
  for (int prompts = sparse ? 3 : 1; prompts > 0; --prompts) {
    prompt = random.tokens(70, static_cast<int32_t>(config.vocab));
    DenseRows dense_rows(sparse ? Vector64{} : ForwardF64(config, random_tensors(kWeightsSeed)).logits(prompt), vocab);
    size_t at = 0;
    for (const size_t n : {size_t{50}, size_t{19}, size_t{1}}) {
      const std::vector<int32_t> chunk(prompt.begin() + static_cast<std::ptrdiff_t>(at),
                                       prompt.begin() + static_cast<std::ptrdiff_t>(at + n));
      const auto position = static_cast<int32_t>(at);
      const auto got = device.run(chunk, position, 3), want = plain.run(chunk, position, 3);
      if (sparse) {
        sparse_rows.add(got, want);
      } else {
        dense_rows.add(got, want);
      }
      at += n;
    }
    if (!sparse) dense_rows.finish(name);
  }
  if (sparse) sparse_rows.finish(name);

  // Decode and prefill in one step give each row what it gets alone, and expert counts are those of the reference.
  const std::vector<int32_t> next{prompt[0]}, other(prompt.begin(), prompt.begin() + 33);
  const auto alone_decode = device.run(next, 70, 3), alone_prefill = device.run(other, 0, 6);
  const std::vector<int32_t> table_a{3, 4}, table_b{6};
  const StepSequence both[] = {{0, 33, 0, table_b, 0}, {33, 1, 70, table_a, 0, true}};
  std::vector<int32_t> tokens(other);
  tokens.push_back(next[0]);
  const std::vector<int32_t> rows{32, 33};
  std::vector<float> logits(2 * vocab);
  int64_t observed = 0;
  device.executable->observe([&](std::string_view op, int64_t n_rows, int64_t cols, const float* values) {
    ++observed;
    CHECK(n_rows == 34 && cols > 0 && !op.empty());
    for (int64_t i = 0; i < n_rows * cols; ++i) CHECK(std::isfinite(values[i]));
  });
  device.executable->run({tokens, both, rows}, *device.cache, logits.data());
  device.executable->observe(nullptr);
  CHECK(observed == static_cast<int64_t>(device.program->ops.size()) - 1);
  const auto row = static_cast<std::ptrdiff_t>(vocab);
  CHECK(std::equal(logits.begin() + row, logits.end(), alone_decode.begin()));
  CHECK(std::equal(logits.begin(), logits.begin() + row, alone_prefill.begin() + 32 * row));

  // A copied block continues the sequence.
  device.cache->copy_block(3, 9, 64), device.cache->copy_block(4, 10, 7);
  const auto copied = device.run(next, 70, 9);
  CHECK(std::equal(copied.begin(), copied.end(), alone_decode.begin()));
}

void test_experts() {
  const ModelConfig config = moe_config();
  const auto reference = create_reference_backend();
  const auto cuda = create_cuda_backend("cuda:0");
  Runner plain(config, *reference), device(config, *cuda);
  const auto prompt = Random(seed(), 2).tokens(40, static_cast<int32_t>(config.vocab));
  device.run(prompt, 0, 0), plain.run(prompt, 0, 0);
  const auto got = device.executable->expert_counts(), want = plain.executable->expert_counts();
  CHECK(got.size() == want.size());
  int64_t total = 0, differing = 0;
  for (size_t i = 0; i < got.size(); ++i) total += got[i], differing += std::abs(got[i] - want[i]);
  CHECK(total == int64_t{40} * config.top_k_experts * config.n_layers);
  // Rows whose router is next to a tie may choose otherwise; the random model has few.
  CHECK_MSG(differing <= total / 25, std::to_string(differing));
}

// The embedded "driver" is told by environment variables what it is to be (emulate/runtime.cc).
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }

 private:
  const char* name_;
};

void expect_refusal(const char* device, ErrorCode code, const std::string& words) {
  try {
    create_cuda_backend(device);
    CHECK_MSG(false, words);
  } catch (const Error& error) {
    CHECK_MSG(error.code() == code && error.subject() == "device", error.what());
    CHECK_MSG(std::string(error.what()).find(words) != std::string::npos, error.what());
    std::printf("%s\n", error.what());
  }
}

void test_refusals() {
  const auto report = cuda_report();
  CHECK(report.reason.empty() && report.devices.size() == 1 && report.devices[0].reason.empty());
  CHECK(report.devices[0].driver == "13.0" && report.devices[0].memory_bytes > 0);
  expect_refusal("cuda:1", ErrorCode::kUnsupported, "no CUDA device 1");
  expect_refusal("cuda:x", ErrorCode::kInvalidArgument, "'cuda:N'");
  {
    const Setting none("QWEN3_EMULATED_DRIVER", "0");
    expect_refusal("cuda", ErrorCode::kUnsupported, "no NVIDIA driver");
    CHECK(cuda_report().reason.find("no NVIDIA driver") != std::string::npos);
  }
  {
    const Setting old("QWEN3_EMULATED_DRIVER", "12040");
    expect_refusal("cuda", ErrorCode::kUnsupported, "supports CUDA 12.4, this version of qwen3 needs 13.0");
  }
  {
    const Setting none("QWEN3_EMULATED_DEVICES", "0");
    expect_refusal("cuda", ErrorCode::kUnsupported,
                   "no CUDA device can be used: cudaGetDeviceCount: cudaErrorNoDevice");
  }
  {
    const Setting starting("QWEN3_EMULATED_FAULT", "count:0");
    CHECK(cuda_report().reason.find("cudaErrorSystemNotReady") != std::string::npos);
  }
  {
    // One device that cannot be used is no reason to do without the other.
    const Setting two("QWEN3_EMULATED_DEVICES", "2"), busy("QWEN3_EMULATED_FAULT", "describe:0");
    CHECK(create_cuda_backend("cuda")->name() == "cuda:1");
  }
  {
    const Setting two("QWEN3_EMULATED_DEVICES", "2"), busy("QWEN3_EMULATED_FAULT", "describe:1");
    const auto found = cuda_report().devices;
    CHECK(found.size() == 2 && found[0].reason.empty());
    CHECK(found.at(1).reason.find("cudaErrorDevicesUnavailable") != std::string::npos);
  }
  {
    const std::string before = std::getenv("QWEN3_CUDA_LIBRARY");
    setenv("QWEN3_CUDA_LIBRARY", "/nonexistent/libqwen3_cuda.so", 1);
    expect_refusal("cuda", ErrorCode::kUnsupported, "cannot be opened");
    CHECK(!cuda_report().reason.empty());
    setenv("QWEN3_CUDA_LIBRARY", before.c_str(), 1);
  }
  const auto cuda = create_cuda_backend("cuda");
  CHECK_THROWS(make_tiny_model(tiny_config(), 1, *cuda, WeightFormat::kF32), ErrorCode::kUnsupported);
  CHECK_THROWS(make_tiny_model(tiny_config(), 1, *cuda, WeightFormat::kInt8), ErrorCode::kUnsupported);
  // Shapes without kernels are refused with the sizes, before any weight is read.
  ModelConfig odd = tiny_config();
  odd.head_dim = 48;
  const auto program = record_forward(odd, std::nullopt, WeightFormats(WeightFormat::kBF16));
  CHECK_THROWS_SUBJECT(cuda->kv_block_bytes(*program, DType::kBF16), ErrorCode::kUnsupported, "device");
  for (const auto& [experts, chosen] : {std::pair{136, 8}, {12, 4}, {64, 17}}) {
    ModelConfig many = tiny_moe_config();
    many.n_experts = experts, many.top_k_experts = chosen;
    const auto refused = record_forward(many, std::nullopt, WeightFormats(WeightFormat::kBF16));
    CHECK_THROWS_SUBJECT(cuda->kv_block_bytes(*refused, DType::kBF16), ErrorCode::kUnsupported, "device");
  }
}

// Memory runs out at every allocation in turn: an error, and the backend works afterwards.
void test_out_of_memory() {
  const auto cuda = create_cuda_backend("cuda");
  Runner healthy(moe_config(), *cuda);
  const auto prompt = Random(seed(), 3).tokens(20, 160);
  const auto before = healthy.run(prompt, 0, 0);
  int refused = 0;
  for (const char* bytes : {"1000", "700000", "1000000", "1500000", "1800000"}) {
    const Setting little("QWEN3_EMULATED_MEMORY", bytes);
    try {
      Runner another(moe_config(), *cuda);
    } catch (const Error& error) {
      CHECK_MSG(error.code() == ErrorCode::kOutOfMemory, error.what());
      ++refused;
    }
  }
  CHECK(refused >= 3);
  {
    const Setting fault("QWEN3_EMULATED_FAULT", "pinned:2");  // of the ring that weights go through
    const auto fresh = create_cuda_backend("cuda");
    CHECK_THROWS(make_tiny_model(tiny_config(), 1, *fresh, WeightFormat::kBF16), ErrorCode::kOutOfMemory);
    make_tiny_model(tiny_config(), 1, *fresh, WeightFormat::kBF16);
  }
  const auto after = healthy.run(prompt, 0, 2);
  CHECK(std::equal(before.begin(), before.end(), after.begin()));
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  if (!std::getenv("QWEN3_CUDA_LIBRARY")) {
    std::fprintf(stderr, "QWEN3_CUDA_LIBRARY must name the library with the emulated device\n");
    return 1;
  }
  const auto report = cuda_report();
  if (!report.devices.empty() && report.devices[0].name.find("emulated") == std::string::npos) {  // gpu_check
    for (const int32_t head_dim : {32, 64, 128}) {
      ModelConfig dense = tiny_config(), sparse = moe_config();
      dense.head_dim = sparse.head_dim = head_dim;
      test_model(dense, "dense");
      test_model(sparse, "sparse");
    }
    test_experts();
    return run.finish();
  }
  const std::string random_schedule = std::to_string(seed());
  for (const char* schedule : {"early", "late", random_schedule.c_str()}) {
    const Setting setting("QWEN3_EMULATED_SCHEDULE", schedule);
    test_model(tiny_config(), "dense");
    test_model(moe_config(), "sparse");
  }
  {
    // The kernels of sm_90a: head_dim 128 takes both of them.
    const Setting compute("QWEN3_EMULATED_COMPUTE", "90");
    ModelConfig dense = tiny_config(), sparse = moe_config();
    dense.head_dim = sparse.head_dim = 128;
    test_model(dense, "dense, sm_90a");
    test_model(sparse, "sparse, sm_90a");
  }
  test_experts();
  test_refusals();
  test_out_of_memory();
  return run.finish();
}
