// Model::load: what it accepts gives the right weights, and every damaged, contradictory or oversized source is refused
// with the tensor named, before or while it is read.

#include <sys/resource.h>

#include <cstdlib>
#include <thread>

#include "checkpoint_file.h"
#include "core/file_reader.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

const std::string kQ = "model.layers.1.self_attn.q_proj.weight", kNorm = "model.norm.weight";

// The backend that main() is going through.
std::shared_ptr<Backend> backend;

std::shared_ptr<const Model> load(const ModelConfig& config, const WeightsSource& source,
                                  WeightFormat format = WeightFormat::kF32, const LoadProgress& progress = {}) {
  return Model::load(config, source, *backend, format, progress);
}

void equal_weights(Random& random) {
  for (const bool moe : {false, true}) {
    ModelConfig config = moe ? tiny_moe_config() : tiny_config();
    config.tied_embeddings = moe;
    const uint64_t weights_seed = random.word();
    const auto made = make_tiny_model(config, weights_seed, *backend);
    const std::vector<float> want = probe_logits(*made, *backend);
    for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16}) {
      const CheckpointFile file(config, weights_seed, dtype);
      CHECK(probe_logits(*load(config, file.source()), *backend) == want);
    }
    CHECK(probe_logits(*make_tiny_model(config, weights_seed + 1, *backend), *backend) != want);
  }
}

void names(Random& random) {
  const ModelConfig config = tiny_config();
  const uint64_t weights_seed = random.word();
  const CheckpointFile file(config, weights_seed);
  const std::vector<float> want = probe_logits(*load(config, file.source()), *backend);
  WeightsSource bare = file.source();  // as the Embedding models name them
  for (TensorRef& ref : bare.tensors) ref.name = ref.name.substr(6);
  CHECK(probe_logits(*load(config, bare), *backend) == want);
  WeightsSource more = file.source();  // a tied model may carry an lm_head, of any kind: it is not looked at
  more.tensors.push_back({"lm_head.weight", "/nowhere", -5, 3, DType::kF32, {1}});
  more.tensors.push_back({"something.else", "/nowhere", 0, 0, DType::kF32, {}});
  CHECK(probe_logits(*load(config, more), *backend) == want);
  ModelConfig untied = config;
  untied.tied_embeddings = false;
  CHECK_THROWS_SUBJECT(load(untied, file.source()), ErrorCode::kBadModelFile, "lm_head.weight");
}

void refused() {
  const ModelConfig config = tiny_config();
  const CheckpointFile file(config, 1);
  const int64_t size = static_cast<int64_t>(std::filesystem::file_size(file.path()));
  auto bad = [&](const std::string& name, const std::function<void(TensorRef&)>& change) {
    CHECK_THROWS_SUBJECT(load(config, file.with(name, change)), ErrorCode::kBadModelFile, name);
  };
  for (const WeightSpec& weight : plan_weights(config).specs) {
    for (const TensorSpec& tensor : weight.tensors) {
      CHECK_THROWS_SUBJECT(load(config, file.without(tensor.name)), ErrorCode::kBadModelFile, tensor.name);
      bad(tensor.name, [](TensorRef& ref) { ref.shape[0] += 1; });
      bad(tensor.name, [](TensorRef& ref) { ref.shape.push_back(1); });
    }
  }
  bad(kQ, [](TensorRef& ref) { std::swap(ref.shape[0], ref.shape[1]); });
  bad(kQ, [](TensorRef& ref) { ref.shape.clear(); });
  bad(kQ, [](TensorRef& ref) { ref.shape[0] = -ref.shape[0]; });
  bad(kQ, [](TensorRef& ref) { ref.bytes -= 2; });
  bad(kQ, [](TensorRef& ref) { ref.bytes = -1; });
  bad(kQ, [](TensorRef& ref) { ref.dtype = DType::kF32; });  // the size no longer fits the shape
  for (const int64_t offset : {int64_t{-1}, size - 1, size, size + 1, INT64_MAX, INT64_MIN, INT64_MAX - 8191}) {
    bad(kQ, [&](TensorRef& ref) { ref.offset = offset; });
  }
  WeightsSource twice = file.source();
  twice.tensors.push_back(twice.tensors.front());
  CHECK_THROWS_SUBJECT(load(config, twice), ErrorCode::kBadModelFile, "model.embed_tokens.weight");
  CHECK_THROWS(load(config, {}), ErrorCode::kBadModelFile);
  for (const char* path : {"/nonexistent/model.safetensors", "/", "/dev/zero", ""}) {
    CHECK_THROWS_SUBJECT(load(config, file.with(kNorm, [&](TensorRef& ref) { ref.path = path; })),
                         ErrorCode::kBadModelFile, path);
  }
}

// The file at every length: only the whole one loads.
void truncated() {
  const ModelConfig config = tiny_config();
  const CheckpointFile file(config, 2);
  const int64_t size = static_cast<int64_t>(std::filesystem::file_size(file.path()));
  for (int64_t cut = 1; cut <= size; cut += cut < 64 ? 1 : 997) {
    std::filesystem::resize_file(file.path(), static_cast<uintmax_t>(size - cut));
    CHECK_THROWS(load(config, file.source()), ErrorCode::kBadModelFile);
  }
}

void progress_and_cancel() {
  const ModelConfig config = tiny_moe_config();
  const CheckpointFile file(config, 3);
  int64_t bytes = 0, last = 0, calls = 0;
  for (const TensorRef& ref : file.source().tensors) bytes += ref.bytes;
  LoadProgress progress;
  progress.report = [&](int64_t done, int64_t total) {
    CHECK(done > last && done <= total && total == bytes);
    last = done;
    ++calls;
  };
  load(config, file.source(), WeightFormat::kBF16, progress);
  CHECK(last == bytes && calls >= static_cast<int64_t>(file.source().tensors.size()));

  for (const bool random : {false, true}) {
    WeightsSource source = random ? WeightsSource{{}, true, 4} : file.source();
    for (int64_t stop = 0; stop < calls; stop += 3) {  // at every third report
      std::atomic<bool> cancelled{stop == 0};
      int64_t seen = 0;
      LoadProgress cancelling{[&](int64_t, int64_t) { cancelled = ++seen >= stop; }, &cancelled};
      CHECK_THROWS(load(config, source, WeightFormat::kF32, cancelling), ErrorCode::kAborted);
      CHECK(seen <= stop + 1);  // the flag stops every thread before its next piece
    }
  }
}

// 235B parameters: refused by the estimate, with no memory touched and no tensor looked at.
void too_large() {
  ModelConfig config;
  config.n_layers = 94, config.hidden = 4096, config.n_q_heads = 64, config.n_kv_heads = 4, config.head_dim = 128;
  config.vocab = 151936, config.rope_theta = 5e6, config.native_window = 262144;
  config.n_experts = 128, config.top_k_experts = 8, config.moe_ffn = 1536, config.moe_layer.assign(94, 1);
  const int64_t bytes = Model::weight_bytes(config, *backend, WeightFormat::kF32);
  CHECK(bytes > int64_t{4} * 230'000'000'000 && bytes < int64_t{4} * 240'000'000'000);
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  CHECK_THROWS(load(config, {}, WeightFormat::kF32), ErrorCode::kOutOfMemory);
  CHECK_THROWS(load(config, {{}, true, 1}, WeightFormat::kF32), ErrorCode::kOutOfMemory);
  getrusage(RUSAGE_SELF, &after);
  CHECK(after.ru_maxrss - before.ru_maxrss < 200 * 1024);  // KiB; the plan's 50,000 names, not the weights
}

// The generator: a function of seed, name and index, in pieces of any size; scaled and tailed as promised.
void generator(Random& random) {
  const TensorSpec spec{"model.layers.3.mlp.up_proj.weight", 300, 515, false};
  const MatrixSource source = random_tensor(spec, 11);
  std::vector<uint16_t> whole(300 * 515), piece(300 * 515);
  source.read(0, 300, whole.data());
  for (int i = 0; i < 50; ++i) {
    const int64_t begin = random.between(0, 299), end = random.between(begin, 300);
    source.read(begin, end, piece.data());
    CHECK(std::equal(piece.begin(), piece.begin() + (end - begin) * 515, whole.begin() + begin * 515));
  }
  random_tensor({"model.layers.4.mlp.up_proj.weight", 300, 515, false}, 11).read(0, 300, piece.data());
  CHECK(piece != whole);
  random_tensor(spec, 12).read(0, 300, piece.data());
  CHECK(piece != whole);

  // One channel in 128 stands out: of 8,192 some do, whatever the seed.
  constexpr size_t kColumns = 8192;
  const TensorSpec large{"model.layers.0.mlp.down_proj.weight", 250, kColumns, false};
  std::vector<uint16_t> bits(250 * kColumns);
  random_tensor(large, random.word()).read(0, 250, bits.data());
  double mean = 0, square = 0, fourth = 0;
  std::vector<double> column(kColumns);
  for (size_t i = 0; i < bits.size(); ++i) {
    const double value = bf16_to_f32(bits[i]) * std::sqrt(double{kColumns});
    mean += value, square += value * value, fourth += value * value * value * value,
        column[i % kColumns] += value * value;
  }
  const double n = static_cast<double>(bits.size());
  CHECK_NEAR(mean / n, 0, 0.01);
  CHECK(square / n > 0.8 && square / n < 1.8);          // about 1 / sqrt(cols)
  CHECK(fourth / n / (square / n) / (square / n) > 4);  // heavier tails than a normal's 3
  std::sort(column.begin(), column.end());
  CHECK(column.back() > 3 * column[kColumns / 2] &&
        column[7200] < 1.5 * column[kColumns / 2]);  // few channels stand out, and by much
  std::vector<uint16_t> norm(4096);
  random_tensor({"model.norm.weight", 4096, 1, true}, 5).read(0, 4096, norm.data());
  double sum = 0;
  for (const uint16_t b : norm) sum += bf16_to_f32(b);
  CHECK(sum / 4096 > 0.9 && sum / 4096 < 1.2);
}

void threads() {
  const CheckpointFile file(tiny_config(), 9);
  const FileReader reader(file.path().string());
  std::vector<char> want(static_cast<size_t>(reader.size()));
  reader.read(0, reader.size(), want.data());
  std::vector<std::thread> pool;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    pool.emplace_back([&, t] {
      Random random(seed(), static_cast<uint64_t>(t));
      std::vector<char> got(want.size());
      for (int i = 0; i < 200; ++i) {
        const int64_t begin = random.between(0, reader.size()), end = random.between(begin, reader.size());
        reader.read(begin, end - begin, got.data());
        wrong += !std::equal(got.begin(), got.begin() + (end - begin), want.begin() + begin);
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  CHECK(wrong == 0);
  char byte;
  CHECK_THROWS(reader.read(reader.size(), 1, &byte), ErrorCode::kBadModelFile);
  CHECK_THROWS(reader.read(-1, 1, &byte), ErrorCode::kBadModelFile);
  CHECK_THROWS(reader.read(0, -1, &byte), ErrorCode::kBadModelFile);
  CHECK_THROWS(reader.read(INT64_MAX, INT64_MAX, &byte), ErrorCode::kBadModelFile);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  for (const char* device : {"reference", "cpu"}) {
    backend = create_backend(device, 2);
    equal_weights(random);
    names(random);
    refused();
    truncated();
    progress_and_cancel();
    too_large();
  }
  backend.reset();
  generator(random);
  threads();
  return run.finish();
}
