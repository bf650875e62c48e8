// The CPU backend's edges: bad options and programs are typed errors, failing sources come through, cache copies
// continue a prefix bit for bit, a NaN stays in its sequence, two busy models share the pool without loss.

#include <atomic>
#include <thread>

#include "cpu/cpu_info.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

struct Setup {
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Program> program;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Executable> executable;

  Setup(const ModelConfig& config, uint64_t weights_seed, DType kv, int threads = 2,
        WeightFormat format = WeightFormat::kBF16)
      : backend(create_cpu_backend(threads, "auto")) {
    model = make_tiny_model(config, weights_seed, *backend, format);
    program = model->program(std::nullopt);
    cache = backend->create_kv_cache(*program, kv, 16);
    executable = backend->compile(program, model->weights(), 256, 1024);
    for (int32_t block = 0; block < 16; ++block) cache->poison_block(block);
  }

  std::vector<float> run(const std::vector<int32_t>& tokens, const std::vector<int32_t>& blocks, int32_t position) {
    std::vector<int32_t> rows(tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
    const StepSequence sequence{0, static_cast<int32_t>(tokens.size()), position, blocks, 0};
    std::vector<float> logits(tokens.size() * static_cast<size_t>(program->vocab));
    executable->run(StepBatch{tokens, {&sequence, 1}, rows}, *cache, logits.data());
    return logits;
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void bad_options() {
  CHECK_THROWS_SUBJECT(create_cpu_backend(-1, "auto"), ErrorCode::kInvalidArgument, "threads");
  CHECK_THROWS_SUBJECT(create_cpu_backend(100000, "auto"), ErrorCode::kInvalidArgument, "threads");
  CHECK_THROWS_SUBJECT(create_cpu_backend(1, "avx1024"), ErrorCode::kInvalidArgument, "isa");
  CHECK_THROWS_SUBJECT(create_cpu_backend(1, ""), ErrorCode::kInvalidArgument, "isa");
  const CpuInfo info = cpu_info();
  CHECK(!info.levels.empty() && info.isa == info.levels.front() && info.levels.back() == "scalar");
  CHECK(info.physical_cores >= 1 && info.memory_bytes > 0);
  for (const std::string& level : info.levels) CHECK(create_cpu_backend(1, level)->name() == "cpu");
}

void bad_sources() {
  const auto backend = create_cpu_backend(3, "auto");
  const auto source = [](int64_t rows, int64_t cols) {
    return MatrixSource{rows, cols, DType::kBF16, [cols](int64_t begin, int64_t end, void* out) {
                          std::memset(out, 0, static_cast<size_t>((end - begin) * cols) * 2);
                        }};
  };
  const auto pack = [&](WeightUse use, std::vector<MatrixSource> sources) {
    return backend->pack(use, WeightFormat::kBF16, sources);
  };
  CHECK(pack(WeightUse::kLinear, {source(40, 30), source(7, 30)})->rows == 47);
  CHECK_THROWS(pack(WeightUse::kLinear, {}), ErrorCode::kInvalidArgument);
  CHECK_THROWS(pack(WeightUse::kLinear, {source(40, 30), source(7, 31)}), ErrorCode::kInvalidArgument);
  CHECK_THROWS(pack(WeightUse::kGateUp, {source(40, 30)}), ErrorCode::kInvalidArgument);
  CHECK_THROWS(pack(WeightUse::kGateUp, {source(40, 30), source(41, 30)}), ErrorCode::kInvalidArgument);
  CHECK_THROWS(pack(WeightUse::kLinear, {source(0, 30)}), ErrorCode::kInvalidArgument);
  CHECK_THROWS(pack(WeightUse::kLinear, {source(int64_t{1} << 31, int64_t{1} << 40)}), ErrorCode::kInvalidArgument);
  CHECK_THROWS(pack(WeightUse::kLinear, {source(int64_t{1} << 26, int64_t{1} << 26)}), ErrorCode::kOutOfMemory);
  MatrixSource failing = source(3000, 64);
  failing.read = [](int64_t begin, int64_t, void*) {
    if (begin > 1000) throw Error(ErrorCode::kBadModelFile, "truncated", "model.safetensors");
  };
  CHECK_THROWS_SUBJECT(pack(WeightUse::kLinear, {failing}), ErrorCode::kBadModelFile, "model.safetensors");
  CHECK(pack(WeightUse::kLinear, {source(3000, 64)})->bytes ==
        static_cast<size_t>(backend->packed_bytes(WeightUse::kLinear, WeightFormat::kBF16, 3000, 64)));
}

void bad_programs() {
  Setup s(tiny_config(), 1, DType::kF32);
  CHECK_THROWS(s.backend->create_kv_cache(*s.program, DType::kF16, 4), ErrorCode::kUnsupported);
  // Every layer's rows: a byte an element, padded to 16 in V, and a scale for each of K and V.
  const Program& p = *s.program;
  const int64_t row = (p.head_dim + 3) / 4 * 4 + (p.head_dim + 15) / 16 * 16 + 8;
  CHECK(s.backend->kv_block_bytes(p, DType::kInt8) == int64_t{p.n_layers} * p.n_kv_heads * 64 * row);
  CHECK_THROWS(s.backend->create_kv_cache(*s.program, DType::kF32, 0), ErrorCode::kInvalidArgument);
  CHECK_THROWS(s.backend->create_kv_cache(*s.program, DType::kF32, int64_t{1} << 40), ErrorCode::kOutOfMemory);
  CHECK_THROWS(s.backend->create_kv_cache(*s.program, DType::kF32, int64_t{1} << 60), ErrorCode::kInvalidArgument);
  CHECK_THROWS(s.backend->compile(s.program, {}, 4, 64), ErrorCode::kInternal);
  auto wrong = std::make_shared<Program>(*s.program);
  wrong->hidden += 1;
  CHECK_THROWS(s.backend->compile(wrong, s.model->weights(), 4, 64), ErrorCode::kInternal);
  CHECK_THROWS(s.backend->compile(s.program, s.model->weights(), int64_t{1} << 44, 64), ErrorCode::kOutOfMemory);
  const auto other = create_reference_backend();
  const auto foreign = other->create_kv_cache(*s.program, DType::kF32, 4);
  const std::vector<int32_t> tokens = {1}, blocks = {0};
  const StepSequence sequence{0, 1, 0, blocks, 0};
  CHECK_THROWS(s.executable->run(StepBatch{tokens, {&sequence, 1}, {}}, *foreign, nullptr), ErrorCode::kInternal);
  CHECK_THROWS(s.run({1000000}, {0}, 0), ErrorCode::kInternal);
  CHECK_THROWS(s.run({1}, {99}, 0), ErrorCode::kInternal);
  CHECK_THROWS(s.cache->copy_block(0, 99, 3), ErrorCode::kInvalidArgument);
  CHECK_THROWS(s.cache->copy_block(0, 1, 65), ErrorCode::kInvalidArgument);
  s.executable->run(StepBatch{}, *s.cache, nullptr);  // an empty step is fine
}

// A prefix that ends inside a block: the copy carries on exactly as the original would.
void copies_continue(Random& random, DType kv) {
  for (int32_t prefix : {1, 37, 64, 101, 128}) {
    Setup s(tiny_moe_config(), 7, kv);
    const std::vector<int32_t> tokens = random.tokens(150, s.program->vocab);
    const std::vector<float> whole = s.run(tokens, {0, 1, 2}, 0);
    for (int32_t block = 0; block * 64 < prefix; ++block) {
      s.cache->copy_block(block, 10 - block, std::min(64, prefix - block * 64));
    }
    const std::vector<int32_t> rest(tokens.begin() + prefix, tokens.end());
    const std::vector<float> tail = s.run(rest, {10, 9, 8}, prefix);
    CHECK(same_bits(tail, {whole.begin() + int64_t{prefix} * s.program->vocab, whole.end()}));
  }
}

// A sequence whose cache holds NaN gets NaN; its neighbours in the same and the next step do not notice.
void nan_stays_alone(Random& random, DType kv, WeightFormat format) {
  Setup s(tiny_moe_config(), 9, kv, 2, format);
  const std::vector<int32_t> tokens = random.tokens(5, s.program->vocab);
  const std::vector<float> want = s.run(tokens, {0}, 0);
  std::vector<int32_t> both = {3}, rows = {0, 1, 2, 3, 4, 5};
  both.insert(both.end(), tokens.begin(), tokens.end());
  const std::vector<int32_t> sick = {5}, healthy = {1};  // block 5 was never written: its sequence reads poison
  const StepSequence sequences[] = {{0, 1, 20, sick, 0}, {1, 5, 0, healthy, 0}};
  std::vector<float> logits(6 * static_cast<size_t>(s.program->vocab));
  s.executable->run(StepBatch{both, sequences, rows}, *s.cache, logits.data());
  CHECK(std::isnan(logits[0]));
  CHECK(same_bits({logits.begin() + s.program->vocab, logits.end()}, want));
  CHECK(same_bits(s.run(tokens, {2}, 0), want));
}

void observers_see_every_operation() {
  Setup s(tiny_moe_config(), 11, DType::kF32);
  std::vector<std::string> names;
  bool shapes = true;
  s.executable->observe([&](std::string_view name, int64_t rows, int64_t cols, const float* values) {
    names.emplace_back(name);
    shapes = shapes && rows == 3 && cols > 0 && std::isfinite(values[rows * cols - 1]);
  });
  const std::vector<float> seen = s.run({1, 2, 3}, {0}, 0);
  CHECK(shapes && names.size() + 1 == s.program->op_names.size());
  CHECK(std::equal(names.begin(), names.end(), s.program->op_names.begin()));
  s.executable->observe(nullptr);
  CHECK(same_bits(s.run({1, 2, 3}, {1}, 0), seen));
  CHECK(names.size() + 1 == s.program->op_names.size());
  const ExpertCounts counts = s.executable->expert_counts();
  CHECK(std::accumulate(counts.begin(), counts.end(), int64_t{0}) == 2 * 2 * 3 * 2);  // layers, runs, rows, top-k
}

// Two engines on one backend: their results are their own, whoever runs beside them.
void two_models_at_once(Random& random) {
  Setup s(tiny_config(), 13, DType::kBF16, 3);
  const auto cache = s.backend->create_kv_cache(*s.program, DType::kBF16, 16);
  const auto executable = s.backend->compile(s.program, s.model->weights(), 256, 1024);
  const std::vector<int32_t> tokens = random.tokens(90, s.program->vocab);
  const std::vector<float> want = s.run(tokens, {0, 1}, 0);
  const int rounds = std::getenv("QWEN3_SANITIZED") ? 5 : 40;
  std::atomic<int> wrong{0};
  std::thread other([&] {
    for (int i = 0; i < rounds; ++i) wrong += !same_bits(run_sequence(*executable, *s.program, *cache, tokens), want);
  });
  for (int i = 0; i < rounds; ++i) wrong += !same_bits(s.run(tokens, {2, 3}, 0), want);
  other.join();
  CHECK(wrong.load() == 0);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  bad_options();
  bad_sources();
  bad_programs();
  for (const DType kv : {DType::kF32, DType::kBF16, DType::kInt8}) {
    copies_continue(random, kv);
    for (const WeightFormat format :
         {WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kInt4Offset}) {
      nan_stays_alone(random, kv, format);
    }
  }
  observers_see_every_operation();
  two_models_at_once(random);
  return run.finish();
}
